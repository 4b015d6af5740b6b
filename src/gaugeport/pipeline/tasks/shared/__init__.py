"""What several tasks share: checks of their settings, and how model pairs, directions and strings are loaded.

Files in reading order: ``checks`` (what a job may ask for), ``transfer`` (models A and B and the gauges a
condition recovers between them), ``directions`` (steering directions and their effects), ``lists`` (what
theory says of moved lists), ``toy`` (strings and bars of Dyck-3 models), ``symmetry`` (the anchor and an
aligned model), ``streams`` (paired streams of two models), ``paired_vectors`` (steering
vectors of two models).
"""
