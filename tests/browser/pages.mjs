// Every page that the menu leads to.

export const PAGES = {
  overview: "/",
  gpus: "/gpus",
  partition: "/partition",
  vms: "/vms",
  hosts: "/hosts",
  cluster: "/cluster",
  findings: "/findings",
  operations: "/operations",
  homogeneity: "/homogeneity",
  capacity: "/capacity",
  rules: "/rules",
  policy: "/policy",
  access: "/access",
  audit: "/audit",
};
