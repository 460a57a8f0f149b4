"""What is read from bodies while they stream by: tokens that a model's response used, and named members of JSON.

Pure: no I/O, no clock, no framework. A host sends each chunk on and shows it to a `Watch`, which finds the documents in
it (`Events` of a stream, a JSON `Body`), compressed or not, and reads them with `Tokens`, `Members`, or both. Nothing
is held beyond a bound, and what could not be read is counted.
"""

from metergate.streams.documents import MOST_DOCUMENT, Body
from metergate.streams.encodings import READABLE, Decompression, Unreadable
from metergate.streams.events import MOST_EVENT, Events
from metergate.streams.members import Members
from metergate.streams.providers import PROVIDERS
from metergate.streams.tokens import Tokens
from metergate.streams.usage import CHARACTERS_PER_TOKEN, Usage
from metergate.streams.watch import NOT_READ, Reading, Watch

__all__ = [
    "CHARACTERS_PER_TOKEN",
    "MOST_DOCUMENT",
    "MOST_EVENT",
    "NOT_READ",
    "PROVIDERS",
    "READABLE",
    "Body",
    "Decompression",
    "Events",
    "Members",
    "Reading",
    "Tokens",
    "Unreadable",
    "Usage",
    "Watch",
]
