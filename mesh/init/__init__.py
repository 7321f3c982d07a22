"""The program of the init container: iptables rules that lead a pod's connections through its proxy.

Standard library only: it runs once in every pod that starts, before anything else may.
"""
