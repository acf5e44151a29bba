import subprocess, sys, time, threading
from benchmarks.server import scene
from benchmarks.server.case import open_case
from benchmarks.server.scene import Group
from benchmarks.server.served import served
case=open_case(int(sys.argv[1]))
with served() as s:
    def p():
        time.sleep(2.5)
        subprocess.run(["perf","record","-q","-F","2000","-g","-t",str(s.pids[0]) if sys.argv[3]=="main" else str(s.pids[0]+int(sys.argv[3])),"-o","/tmp/server-t/perf.data","--","sleep","4"],stderr=subprocess.DEVNULL)
    t=threading.Thread(target=p); t.start()
    r=scene.run(s,[case],[Group(name="a",devices=int(sys.argv[2]))],seconds=6.0)
    t.join(); print(r.cpu_ms)
