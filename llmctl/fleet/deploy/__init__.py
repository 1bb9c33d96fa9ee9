"""llmctl onto a host, and back: what is chosen, sent, built, put in use and proven; `llmctl.host` is the other half."""
