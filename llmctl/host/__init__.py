"""What a deploy does on the host itself: the lease, releases, units, the audit log. Standard library only.

It runs as `python -m llmctl.host` out of the wheel that was just uploaded, on the host's own Python (3.10 or newer),
before there is any environment.
"""
