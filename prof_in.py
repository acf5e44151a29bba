import time, sys, cProfile, pstats
from benchmarks.server.case import peer_case
from split_model.protocol import messages as wire
from msgspec.structs import replace
from cloud_server.sessions import Sessions
from cloud_server.engine import LocalEngine
from cloud_server.tails import TailSet
from cloud_server.limits import ServerLimits
from cloud_server.counters import Counters
from cloud_server.connections import Connections
from cloud_server.gateway import Gateway
import numpy as np
c=peer_case(int(sys.argv[1]))
tails=TailSet([c.bundle])
eng=LocalEngine(tails,deliver=print,clock=time.monotonic,threads=2,tail_threads=1,queue=1024,cache_bytes=1<<30,short_s=100.0)
s=Sessions(tails=tails,engine=eng,name_of=lambda k:k,boot_id="x",limits=ServerLimits(),counters=Counters())
N=8
for p in range(N):
    s.receive(b"%016d"%p,"key%d"%p,[memoryview(wire.encode(wire.Hello(versions=(1,),boot_id="boot",software="s")))],0.0)
# replace interpreter by a fake quick one
class Fake:
    fresh=False
out=np.zeros((1,1000),np.float32)
class I:
    inputs=()
    def run(self,f): return [out]
import cloud_server.tail_pool as tp
from split_model.protocol.chunks import chunk_bytes_for
orig=tp.TailPool.borrow
if len(sys.argv)<4:
    import split_model.interpreter.backend as be
    be.Interpreter.run=lambda self,f: [out]
req=c.request(); cb=chunk_bytes_for(len(c.payload))
headers=[]
n=[0]
payload=memoryview(c.payload)
def one(i):
    r=wire.encode(replace(req,request_id=i,due_in_s=30.0))
    msgs=[[memoryview(r),payload[:cb]]]
    for o in range(cb,len(payload),cb): msgs.append([memoryview(wire.encode(wire.Chunk(request_id=i,offset=o))),payload[o:o+cb]])
    return msgs
R=3000
reqs=[one(i) for i in range(R)]
def go(lo,hi):
    k=0
    for i in range(lo,hi):
        now=time.monotonic()
        p=i%N
        for m in reqs[i]: s.receive(b"%016d"%p,"key%d"%p,m,now)
        if i%2: k+=len(s.turn(now))
    return k
for i in range(8):
    for m in reqs[i]: s.receive(b"%016d"%(i%N),"key%d"%(i%N),m,0.0)
    time.sleep(0.01); s.turn(0.0)
import threading
eng._runner.times._known={k:(9,1e-5) for k in [tails.tail_for(req).id]}
t=time.process_time(); k=go(10,R); d=time.process_time()-t
print("us a request", d/(R-10)*1e6, k)
if len(sys.argv)>2:
    reqs=[one(i+R) for i in range(R)]
    pr=cProfile.Profile(); pr.enable(); go(0,R); pr.disable()
    pstats.Stats(pr).sort_stats("tottime").print_stats(38)
    st=pstats.Stats(pr)
    import io
    for f in ("len","max","'get' of 'dict'"): st.print_callers(f)
