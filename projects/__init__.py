"""One package a method. A project imports `common`, never another project."""
