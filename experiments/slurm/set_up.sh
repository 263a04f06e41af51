#!/bin/bash
# One machine as a Slurm cluster: controller, node and partition `here`, for trying out a job array.
# As root on a fresh Debian 12 or 13: bash set_up.sh; then sinfo shows one idle node. Not for
# production: no accounting, and processes are tracked by their parents.
set -euo pipefail

command -v sbatch >/dev/null && command -v munged >/dev/null ||
	{ apt-get update && apt-get install -y --no-install-recommends slurm-wlm munge; }

[ -s /etc/munge/munge.key ] || mungekey --create --verbose
install -d -o munge -g munge -m 755 /run/munge
chown munge: /etc/munge/munge.key
pgrep -x munged >/dev/null || runuser -u munge -- /usr/sbin/munged

node=$(hostname -s)
memory=$(($(awk '/MemTotal/ {print $2}' /proc/meminfo) / 1024 * 9 / 10))
install -d -o slurm -g slurm /var/spool/slurmctld /var/log/slurm
install -d /etc/slurm /var/spool/slurmd
cat >/etc/slurm/slurm.conf <<CONF
ClusterName=here
SlurmctldHost=$node(127.0.0.1)
SlurmUser=slurm
AuthType=auth/munge
StateSaveLocation=/var/spool/slurmctld
SlurmdSpoolDir=/var/spool/slurmd
SlurmctldLogFile=/var/log/slurm/slurmctld.log
SlurmdLogFile=/var/log/slurm/slurmd.log
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
JobRequeue=1
MpiDefault=none
NodeName=$node NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$memory State=UNKNOWN
PartitionName=here Nodes=$node Default=YES MaxTime=INFINITE State=UP
CONF
# Slurm 22 and older know no "disabled": they take the version that the machine has.
case "$(slurmd -V)/$(stat -fc %T /sys/fs/cgroup)" in
*\ 2[0-2].*/cgroup2fs) cgroup=cgroup/v2 ;;
*\ 2[0-2].*) cgroup=cgroup/v1 ;;
*) cgroup=disabled ;;
esac
echo "CgroupPlugin=$cgroup" >/etc/slurm/cgroup.conf

pgrep -x slurmctld >/dev/null || slurmctld
pgrep -x slurmd >/dev/null || slurmd
for _ in $(seq 30); do
	sinfo --noheader --format %t 2>/dev/null | grep -q idle && break
	sleep 1
done
sinfo
