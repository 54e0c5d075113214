"""The assets, one module a family. Each is a sentence over functions of the other packages."""
