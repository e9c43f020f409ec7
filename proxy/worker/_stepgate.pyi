# stepgate.c as a Python module: it has no functions, only a file to be loaded globally.
