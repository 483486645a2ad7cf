"""Settings: the table of all settings, the sources that they come from, and the checks of their
values.
"""
