"""The command line, one file per noun: each verb parses, calls the core and returns an `Answer`; it prints nothing."""
