"""The Python client, in two forms over one description of the API.

Modules: ``call`` (one request and how its answer is read), ``routes`` (every request there is), ``sse`` and ``events``
(the live stream), ``outcome`` (waiting); then ``sync`` with ``job``, and ``aio`` with ``aio_job``, whose methods send a
call and return what was read. A test holds the two forms to the same methods and parameters.
"""

from modelyard.client.aio import AsyncClient
from modelyard.client.aio_job import AsyncJob
from modelyard.client.events import Ended, Event, JobEvent, Progress
from modelyard.client.job import Job
from modelyard.client.sync import Client

__all__ = ["AsyncClient", "AsyncJob", "Client", "Ended", "Event", "Job", "JobEvent", "Progress"]
