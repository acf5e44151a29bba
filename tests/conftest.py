"""What holds for every test."""

import signal

from hypothesis import settings

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("project", deadline=None, print_blob=True)
settings.load_profile("project")

# Under nohup the programs leave SIGHUP alone, as they should; those that the tests start are to reload at it.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
