"""The one exception of users' errors: what is wrong and how to mend it."""


class UserError(Exception):
    """An error that the user can mend; the doors print it in one line and exit 1.

    Args:
        what: What was expected and what came, naming file, line, field or value.
        mend: What to type or change.
    """

    def __init__(self, what: str, mend: str) -> None:
        super().__init__(what, mend)
        self.what = what
        self.mend = mend

    def __str__(self) -> str:
        return f"{self.what} ({self.mend})"
