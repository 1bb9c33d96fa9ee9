"""Long work on a host that outlives its caller: pull, convert, train. One queue a host, one module for all of them."""
