// An installation with something to look at: three hosts, most GPUs split, one host of another count, and VMs of several kinds.

export async function furnish(daemon) {
  const tranche = (line) => daemon.tranche(line.split(" "));
  await tranche("gpu partition --gpu node1/41:00.0 --gpu node1/42:00.0 --gpu node2/41:00.0 --gpu node2/42:00.0 --count 4 --series Q");
  await tranche("gpu partition --gpu node1/43:00.0 --gpu node2/43:00.0 --gpu node3/41:00.0 --count 4 --series Q");
  await tranche("gpu partition node3/42:00.0 2");
  await tranche("gpu passthrough node1/45:00.0 --pool render");
  await tranche("gpu passthrough node2/45:00.0 --pool render");
  const desks = ["desk-01", "desk-02", "desk-03", "desk-04", "desk-05", "desk-06"];
  for (const name of desks) {
    await tranche(`vm create ${name} --vcpus 4 --memory 8GiB --gpu profile:4Q --guest-os ubuntu24.04 --network default`);
  }
  await tranche("vm create render-01 --vcpus 8 --memory 32GiB --gpu whole:1@render --guest-os win11 --priority 500");
  await tranche("vm create render-02 --vcpus 8 --memory 32GiB --gpu whole:2@render --guest-os win11");
  await tranche("rule set desks-apart --vm desk-01,desk-02 --apart --strict");
  await tranche("rule set render-near --vm render-01 --host node1:200");
  for (const name of [...desks.slice(0, 4), "render-01"]) await tranche(`vm start ${name}`);
  // No host has two GPUs of the pool: it waits.
  await tranche("vm start render-02 --no-wait");
  await tranche("token create backup --role viewer");
}
