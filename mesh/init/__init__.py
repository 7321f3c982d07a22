"""The program of the init container: iptables rules that lead a pod's connections through its proxy."""
