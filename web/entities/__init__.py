"""Entities over HTTP: changes in, latest states and their history out, from any worker.

A change is answered 202 once the broker has it, and is in the answers of all workers one
second after its commit at the latest: a worker that does not own an entity may answer
from a cache of one second. Answers name their partition, their worker and how old they are.
"""
