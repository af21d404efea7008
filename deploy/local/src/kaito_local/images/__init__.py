"""Builds the project's OCI images without a container daemon and without an image registry.

A base layer comes from Debian's package archive (debootstrap), Python packages come from ``uv.lock``, and our own code
comes from its wheels. Each layer is one uncompressed, deterministic tar that is written once and named by its digest;
images are thin lists of such layers. See ``docs`` and the services' Dockerfiles, which describe the same images for
people who have Docker and a registry at hand.
"""
