"""llama.cpp built for the very CPU of a host, from the source that the pinned wheel was made of; the wheel serves until
then, and where there is no compiler."""
