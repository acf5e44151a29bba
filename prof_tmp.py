import subprocess, sys, threading, time, collections
from benchmarks.server import scene
from benchmarks.server.case import open_case
from benchmarks.server.scene import Group
from benchmarks.server.served import served
from benchmarks.server import bare
cut=int(sys.argv[1]); n=int(sys.argv[2]); prof=len(sys.argv)>3
case=open_case(cut)
with served() as s:
    if prof:
        p=subprocess.Popen([".venv/bin/py-spy","record","-p",str(s.pids[0]),"-d","5","-r","400","--nonblocking","-f","raw","-t","-o","/tmp/server-t/raw.txt"],stdout=subprocess.DEVNULL,stderr=subprocess.DEVNULL)
        p2=subprocess.Popen(["perf","record","-q","-F","1000","-g","-p",str(s.pids[0]),"-o","/tmp/server-t/perf.data","--","sleep","4"],stderr=subprocess.DEVNULL) if prof and sys.argv[3]=="perf" else None
    for _ in range(1 if prof else 3):
        b=bare.run(cut,threads=2,seconds=1.5)
        r=scene.run(s,[case],[Group(name="a",devices=n)],seconds=5.0 if prof else 2.0)
        tasks={}
        print("tail",round(b.cpu_ms,4),"ours",round(r.cpu_ms,4),"beyond",round(r.cpu_ms-b.cpu_ms,4),"rps",round(r.answers_s),"gen",round(r.own_cpu_s/r.answered*1e3,3), flush=True)
    import os
    for t in os.listdir(f"/proc/{s.pids[0]}/task"):
        print(open(f"/proc/{s.pids[0]}/task/{t}/comm").read().strip(), [int(x) for x in open(f"/proc/{s.pids[0]}/task/{t}/stat").read().rpartition(")")[2].split()[11:13]])
