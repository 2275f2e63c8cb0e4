"""Layouts by somebody who had not seen the scorers; looked at once, at the end."""
