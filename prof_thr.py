import os,sys
from benchmarks.server import scene, bare
from benchmarks.server.case import open_case
from benchmarks.server.scene import Group
from benchmarks.server.served import served
cut=int(sys.argv[1]); n=int(sys.argv[2]); case=open_case(cut)
def ticks(pid):
    r={}
    for t in os.listdir(f"/proc/{pid}/task"):
        a,b=open(f"/proc/{pid}/task/{t}/schedstat").read().split()[:2]
        r[t]=(open(f"/proc/{pid}/task/{t}/comm").read().strip(), int(a))
    return r
with served() as s:
    scene.run(s,[case],[Group(name="a",devices=n)],seconds=1.0)
    for _ in range(3):
        b=bare.run(cut,threads=2,seconds=1.5)
        t0=ticks(s.pids[0]); r=scene.run(s,[case],[Group(name="a",devices=n)],seconds=3.0); t1=ticks(s.pids[0])
        k=r.answered*3.5/3
        print("tail",round(b.cpu_ms,3),"ours",round(r.cpu_ms,3),"beyond",round(r.cpu_ms-b.cpu_ms,3),"rps",round(r.answers_s),{i:(t1[i][0],round((t1[i][1]-t0[i][1])/1e6/k,3)) for i in t1 if t1[i][1]-t0[i][1]>1e6})
