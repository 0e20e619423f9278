"""The systems of the paper's Table II: trained, recorded, and compared with the published results.

``python -m regime_proto.examples.paper list`` shows the eighteen rows, ``run ROW`` trains one of them.
"""
