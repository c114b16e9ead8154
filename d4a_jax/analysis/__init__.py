"""What a distilled set teaches, and what it leaves out.

`answers` trains networks on a set and records which real images they classify
correctly. Everything else is arithmetic on such answers: difficulty segments
(`deciles`), forgetting (`forgetting`) and judging figures (`judging`). `study` does
all of it for a list of sets, `figures` draws it and `report` writes one HTML file.
"""
