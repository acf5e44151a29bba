"""The workstation's part: reads a ``.tflite``, chooses cuts, writes and verifies bundles.

Neither program imports it. Reading and slicing need the schema of ``ai-edge-litert`` (extra ``tools``);
``verify.verify_bundle`` needs a TFLite backend only.
"""
