"""What is wrong with the operator's machine and with each host, and the command that mends it; changes nothing."""
