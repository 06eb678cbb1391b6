"""The coordination store on etcd's v3 API, spoken through its JSON gateway. Needs the extra ``rallypoint[etcd]``.

``wire`` knows the requests and answers, ``http`` carries them, ``session`` is one life of a connection to one
member, ``store`` goes from member to member and implements the five verbs.
"""
