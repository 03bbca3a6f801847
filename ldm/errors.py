"""The one exception that is the user's to mend; entry points print it as one line and exit with status 2."""


class UserError(Exception):
    """Bad input, named in one sentence that ends in its remedy."""
