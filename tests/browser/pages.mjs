// Every page that the menu leads to.

export const PAGES = {
  overview: "/",
  gpus: "/gpus",
  partition: "/partition",
  vms: "/vms",
  hosts: "/hosts",
  findings: "/findings",
  operations: "/operations",
  homogeneity: "/homogeneity",
  capacity: "/capacity",
  rules: "/rules",
  access: "/access",
  audit: "/audit",
};
