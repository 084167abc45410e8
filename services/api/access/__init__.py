"""The locked door: who calls, what that role may do, how often, and what is written down about it.

Modules: ``origins`` (web pages of other sites), ``callers`` (key or session to ``Principal``), ``rules`` (the table of
roles over routes), ``throttle`` (rate limits), ``audit`` (the log), ``headers`` (for browsers); ``door`` is the
middleware that asks them in this order, ``opening`` builds them. ``express`` shares ``asked`` and ``checks`` with it.
"""
