/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef TRANCHE_LAB_VGPU_H
#define TRANCHE_LAB_VGPU_H

#include <linux/vfio_pci_core.h>

struct vgpu_type {
	const char *name;
	unsigned int size_mib;
	unsigned int max;
};

/* One virtual function. */
struct vgpu {
	struct vfio_pci_core_device core;
	struct list_head node;
	/* None until it is given one; not changed while it is open. */
	const struct vgpu_type *type;
	bool open;
	char params[128];

	/* Migration. The lock guards the two below it. */
	struct mutex state_lock;
	enum vfio_device_mig_state state;
	struct file *stream;
	/* What the device "computes": its state is made of it, and it travels along. */
	u64 seed;
};

/* vgpu_migration.c */
void vgpu_migration_init(struct vgpu *vgpu);
void vgpu_migration_reset(struct vgpu *vgpu);

#endif
