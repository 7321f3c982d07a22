"""A webhook of the control plane: HTTPS with certificates of its own, and AdmissionReviews in and out.

server.py        the HTTPS server and its certificate, put together
certificate.py   the certificate and its CA; when it is due; what it is worth
keeper.py        Secret ◄─► replicas ─► caBundle of the webhook configuration
review.py        AdmissionReview v1 as requests and answers
"""
