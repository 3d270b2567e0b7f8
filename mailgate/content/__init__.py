"""What is in a message: its parts, what archives among them hold, its text and its links.

What reads hostile octets runs in worker processes (`worker` is our side, `inside` theirs); this package says what is
there, and never what is to be done about it.
"""
