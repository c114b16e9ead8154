"""Devices, processes and hosts: the only place for sharding and compilation."""
