"""The coordination store in a folder that all nodes share: a journal under a lock, and a file for each that lives.

``replica`` knows what the journal means, ``journal`` reads and writes it, ``alive`` tells who lives, ``inotify`` when
to look, and ``store`` implements the five verbs with them.
"""
