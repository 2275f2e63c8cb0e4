"""Requests that proxies and servers have read differently; each is to be refused."""

COMPLETE = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\n"
SMUGGLED = [
    b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    + COMPLETE,
    b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
    b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nA\x00B: c\r\n\r\n",
    # what proxies and servers have read differently
    POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + COMPLETE,
    POST + b"Transfer-Encoding: chunked, identity\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + COMPLETE,
    POST + b"Transfer-Encoding: xchunked\r\nContent-Length: 3\r\n\r\nabc" + COMPLETE,
    POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + COMPLETE,
    POST + b"Transfer-Encoding:\x0bchunked\r\nContent-Length: 3\r\n\r\nabc" + COMPLETE,
    POST + b"Content-Length: +5\r\n\r\nabcde" + COMPLETE,
    POST + b"Content-Length: 5,5\r\n\r\nabcde" + COMPLETE,
    POST + b"Content-Length: 0x5\r\n\r\nabcde" + COMPLETE,
    POST + b"Content-Length: -1\r\n\r\n" + COMPLETE,
    POST
    + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcXX0\r\n\r\n"
    + COMPLETE,  # the end of a chunk is not CR LF
    POST + b"Transfer-Encoding: chunked\r\n\r\n3\nabc\n0\n\n" + COMPLETE,  # bare LF about chunks
    POST + b"Transfer-Encoding: chunked\r\n\r\n-3\r\nabc\r\n0\r\n\r\n" + COMPLETE,
    POST + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nA: b\r\n folded: c\r\n\r\n" + COMPLETE,
    b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nA: b\rC: d\r\n\r\n" + COMPLETE,  # a bare CR
    b"GET /healthz HTTP/1.1\nHost: localhost\n\n",  # bare LF about the head
    b"GET /healthz HTTP/3.7\r\nHost: localhost\r\n\r\n",
    POST + b"Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n" + COMPLETE,
    b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: 127.0.0.1\r\n\r\n" + COMPLETE,
]
