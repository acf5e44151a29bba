"""The workstation's half of ``split_model``: take a ``.tflite`` apart, choose cuts, write and verify bundles.

Neither program imports it. Reading and slicing need the schema that ``ai-edge-litert`` ships
(extra ``tools``); ``verify.verify_bundle`` needs a TFLite backend only.
"""
