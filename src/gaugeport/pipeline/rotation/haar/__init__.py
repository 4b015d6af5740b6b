"""Test whether a rotation between two models is Haar-random (table b6; paper B, section 8.3).

Files in reading order:

- ``statistics``: what is measured of one rotation, and Haar-random rotations of each group
- ``null``: the same statistics of many Haar-random rotations, and p-values against them
- ``power``: how often each test rejects rotations that are Haar, and rotations that are not
- ``rank``: how much of a fitted rotation the data decide, with controls

May import the library, and ``pipeline.store`` to keep nulls.
"""
