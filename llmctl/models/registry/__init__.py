"""registry.json of the tool that llmctl replaces, versions 1 and 2: read, checked, brought over, written."""
