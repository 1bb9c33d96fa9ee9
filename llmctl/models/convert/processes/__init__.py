"""What runs in converters' own processes: the libraries that read and write weights, and nothing of ours above them."""
