"""The demo: one pipeline, three delivery semantics, the same faults; run by `python -m oncelog.demo`.

It meets the broker only from outside: as a process, and with confluent-kafka as the client. Nothing of the broker is
imported, so that what it shows is what a stranger's client sees.

- `worker.py`: the pipeline, one file to copy: reads `orders`, writes `invoices`, in each of the three semantics.
- `faults.py`: which faults come after how many orders; the same for all three.
- `processes.py`: the broker and the workers as processes that can be killed, frozen and thawed.
- `proxy.py`: stands between clients and broker, and cuts connections when a reply is on its way.
- `stage.py`: the folder, the broker, the proxy and the topics; takes everything away at the end.
- `run.py`: one run: starts workers, lets the faults happen, waits for the end.
- `counting.py`: reads the topics as a stranger would, and counts what was lost and doubled.
- `screen.py`: progress, table, next steps.
"""
