"""Its place makes ``lab`` importable in every test."""
