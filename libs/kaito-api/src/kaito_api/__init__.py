"""Pure views of the Kubernetes objects that KAITO's services read and write.

The contract is crds/*.yaml; these structs are narrow views of it and of the built-in kinds. Nothing here does I/O,
reads a clock or logs. A field that is not declared is ignored on read, so never build a full replacement of a stored
object from one of these structs: patch or server-side-apply the fields that you own.
"""
