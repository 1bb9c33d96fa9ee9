"""A slot: a port that holds at most one model; its state, admission, supervision and control socket."""
