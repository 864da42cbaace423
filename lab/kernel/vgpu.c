// SPDX-License-Identifier: GPL-2.0-only
/*
 * The virtual lab's stand-in for NVIDIA's vGPU host driver, vendor-specific VFIO framework (kernel 6.8 and later).
 *
 * A PCI driver of the name "nvidia" for one of the lab's igb adapters and its virtual functions. The physical function
 * does nothing, and has no sriov_configure, so that the kernel itself answers ENOENT to sriov_numvfs. A virtual function
 * is an ordinary VFIO device that can be opened only while it has a type. Which types it can take follows from its
 * siblings:
 *
 *   - none, while it has one;
 *   - of all siblings, those with a type are fewer than the type's maximum;
 *   - all types on an adapter have the same framebuffer size, whatever their series.
 *
 * All of it is gone with the virtual function, as on the real one. Nothing of NVIDIA's is in here: the behaviour is that
 * of NVIDIA's vGPU Software User Guide ("Creating an NVIDIA vGPU on a Linux with KVM Hypervisor that Uses a
 * Vendor-Specific VFIO Framework").
 *
 * Deliberately absent: DMA, interrupts, memory. The guest sees QEMU's igb function and finds no GPU in it.
 */

#include <linux/list.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/random.h>
#include <linux/sysfs.h>
#include <linux/vfio_pci_core.h>

#include "vgpu.h"

/*
 * QEMU gives all igb adapters the same ids. The one that this driver is given gets a subsystem of its own, by which the
 * catalogue tells it from the others; it stays with the device until the node reboots, whatever driver it is bound to.
 */
#define LAB_SUBSYSTEM_VENDOR PCI_VENDOR_ID_REDHAT_QUMRANET
#define LAB_SUBSYSTEM_DEVICE 0x6c61

#define IGB_PF 0x10c9
#define IGB_VF 0x10ca

/* 8 GiB of a memory that does not exist. */
static const struct vgpu_type vgpu_types[] = {
	{ "1B", 1024, 8 }, { "2B", 2048, 4 },
	{ "1Q", 1024, 8 }, { "2Q", 2048, 4 }, { "4Q", 4096, 2 }, { "8Q", 8192, 1 },
	{ "1A", 1024, 8 }, { "2A", 2048, 4 }, { "4A", 4096, 2 }, { "8A", 8192, 1 },
};

static unsigned int first_type_id = 3001;
module_param(first_type_id, uint, 0444);
MODULE_PARM_DESC(first_type_id, "Number of the first type: an update of the driver may renumber them");

/* Guards the list, and the type and the openness of every function in it. */
static DEFINE_MUTEX(functions_lock);
static LIST_HEAD(functions);

static struct vgpu *vgpu_of(struct device *dev)
{
	return container_of(dev_get_drvdata(dev), struct vgpu, core);
}

static unsigned int id_of(const struct vgpu_type *type)
{
	return first_type_id + (type - vgpu_types);
}

static bool creatable(const struct vgpu *vgpu, const struct vgpu_type *type)
{
	struct pci_dev *adapter = pci_physfn(vgpu->core.pdev);
	const struct vgpu *other;
	unsigned int made = 0;

	lockdep_assert_held(&functions_lock);
	if (vgpu->type)
		return false;
	list_for_each_entry(other, &functions, node) {
		if (!other->type || pci_physfn(other->core.pdev) != adapter)
			continue;
		if (other->type->size_mib != type->size_mib)
			return false;
		made++;
	}
	return made < type->max;
}

static ssize_t creatable_vgpu_types_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	struct vgpu *vgpu = vgpu_of(dev);
	const struct vgpu_type *type;
	int len = sysfs_emit(buf, "ID    : vGPU Name\n");

	mutex_lock(&functions_lock);
	for (type = vgpu_types; type < vgpu_types + ARRAY_SIZE(vgpu_types); type++)
		if (creatable(vgpu, type))
			len += sysfs_emit_at(buf, len, "%-6u: NVIDIA LAB-%s\n", id_of(type), type->name);
	mutex_unlock(&functions_lock);
	return len;
}
static DEVICE_ATTR_RO(creatable_vgpu_types);

static ssize_t current_vgpu_type_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	struct vgpu *vgpu = vgpu_of(dev);
	unsigned int id;

	mutex_lock(&functions_lock);
	id = vgpu->type ? id_of(vgpu->type) : 0;
	mutex_unlock(&functions_lock);
	return sysfs_emit(buf, "%u\n", id);
}

static int change_type(struct vgpu *vgpu, unsigned int id)
{
	const struct vgpu_type *type = NULL;

	lockdep_assert_held(&functions_lock);
	if (vgpu->open)
		return -EPERM;
	if (id) {
		if (id < first_type_id || id - first_type_id >= ARRAY_SIZE(vgpu_types))
			return -EINVAL;
		type = &vgpu_types[id - first_type_id];
		if (!creatable(vgpu, type))
			return -EINVAL;
	}
	vgpu->type = type;
	return 0;
}

static ssize_t current_vgpu_type_store(struct device *dev, struct device_attribute *attr, const char *buf, size_t count)
{
	struct vgpu *vgpu = vgpu_of(dev);
	unsigned int id;
	int error;

	if (kstrtouint(buf, 10, &id))
		return -EINVAL;
	mutex_lock(&functions_lock);
	error = change_type(vgpu, id);
	mutex_unlock(&functions_lock);
	return error ?: count;
}
static DEVICE_ATTR_RW(current_vgpu_type);

static ssize_t vgpu_params_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	struct vgpu *vgpu = vgpu_of(dev);
	int len;

	mutex_lock(&functions_lock);
	len = vgpu->params[0] ? sysfs_emit(buf, "%s\n", vgpu->params) : 0;
	mutex_unlock(&functions_lock);
	return len;
}

static ssize_t vgpu_params_store(struct device *dev, struct device_attribute *attr, const char *buf, size_t count)
{
	struct vgpu *vgpu = vgpu_of(dev);

	if (count >= sizeof(vgpu->params))
		return -EINVAL;
	mutex_lock(&functions_lock);
	strscpy(vgpu->params, buf, sizeof(vgpu->params));
	/* A single blank clears them. */
	strscpy(vgpu->params, strim(vgpu->params), sizeof(vgpu->params));
	mutex_unlock(&functions_lock);
	return count;
}
static DEVICE_ATTR_RW(vgpu_params);

static struct attribute *vgpu_attrs[] = {
	&dev_attr_creatable_vgpu_types.attr,
	&dev_attr_current_vgpu_type.attr,
	&dev_attr_vgpu_params.attr,
	NULL
};

static const struct attribute_group vgpu_group = { .name = "nvidia", .attrs = vgpu_attrs };

static int vgpu_open_device(struct vfio_device *vdev)
{
	struct vgpu *vgpu = container_of(vdev, struct vgpu, core.vdev);
	int error;

	mutex_lock(&functions_lock);
	vgpu->open = vgpu->type;
	error = vgpu->open ? 0 : -ENODEV;
	mutex_unlock(&functions_lock);
	if (error)
		return error;
	vgpu->seed = get_random_u64();
	error = vfio_pci_core_enable(&vgpu->core);
	if (error) {
		mutex_lock(&functions_lock);
		vgpu->open = false;
		mutex_unlock(&functions_lock);
		return error;
	}
	vfio_pci_core_finish_enable(&vgpu->core);
	return 0;
}

static void vgpu_close_device(struct vfio_device *vdev)
{
	struct vgpu *vgpu = container_of(vdev, struct vgpu, core.vdev);

	vgpu_migration_reset(vgpu);
	vfio_pci_core_close_device(vdev);
	mutex_lock(&functions_lock);
	vgpu->open = false;
	mutex_unlock(&functions_lock);
}

static int vgpu_init_dev(struct vfio_device *vdev)
{
	vgpu_migration_init(container_of(vdev, struct vgpu, core.vdev));
	return vfio_pci_core_init_dev(vdev);
}

static const struct vfio_device_ops vgpu_ops = {
	.name = "tranche-lab-vgpu",
	.init = vgpu_init_dev,
	.release = vfio_pci_core_release_dev,
	.open_device = vgpu_open_device,
	.close_device = vgpu_close_device,
	.ioctl = vfio_pci_core_ioctl,
	.device_feature = vfio_pci_core_ioctl_feature,
	.read = vfio_pci_core_read,
	.write = vfio_pci_core_write,
	.mmap = vfio_pci_core_mmap,
	.request = vfio_pci_core_request,
	.match = vfio_pci_core_match,
	.bind_iommufd = vfio_iommufd_physical_bind,
	.unbind_iommufd = vfio_iommufd_physical_unbind,
	.attach_ioas = vfio_iommufd_physical_attach_ioas,
	.detach_ioas = vfio_iommufd_physical_detach_ioas,
};

static bool is_lab_adapter(struct pci_dev *pdev)
{
	return pdev->subsystem_vendor == LAB_SUBSYSTEM_VENDOR && pdev->subsystem_device == LAB_SUBSYSTEM_DEVICE;
}

static int probe_function(struct pci_dev *pdev)
{
	struct vgpu *vgpu;
	int error;

	/* Those of the lab's other adapters are plain ones. */
	if (!is_lab_adapter(pci_physfn(pdev)))
		return -ENODEV;
	vgpu = vfio_alloc_device(vgpu, core.vdev, &pdev->dev, &vgpu_ops);
	if (IS_ERR(vgpu))
		return PTR_ERR(vgpu);
	dev_set_drvdata(&pdev->dev, &vgpu->core);
	error = vfio_pci_core_register_device(&vgpu->core);
	if (error)
		goto put;
	mutex_lock(&functions_lock);
	list_add_tail(&vgpu->node, &functions);
	mutex_unlock(&functions_lock);
	error = sysfs_create_group(&pdev->dev.kobj, &vgpu_group);
	if (!error)
		return 0;
	mutex_lock(&functions_lock);
	list_del(&vgpu->node);
	mutex_unlock(&functions_lock);
	vfio_pci_core_unregister_device(&vgpu->core);
put:
	vfio_put_device(&vgpu->core.vdev);
	return error;
}

static int vgpu_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	if (pdev->is_virtfn)
		return probe_function(pdev);
	pdev->subsystem_vendor = LAB_SUBSYSTEM_VENDOR;
	pdev->subsystem_device = LAB_SUBSYSTEM_DEVICE;
	return 0;
}

static void vgpu_remove(struct pci_dev *pdev)
{
	struct vgpu *vgpu;

	if (!pdev->is_virtfn)
		return;
	vgpu = vgpu_of(&pdev->dev);
	sysfs_remove_group(&pdev->dev.kobj, &vgpu_group);
	/* Waits until nothing has it open any more. */
	vfio_pci_core_unregister_device(&vgpu->core);
	mutex_lock(&functions_lock);
	list_del(&vgpu->node);
	mutex_unlock(&functions_lock);
	vfio_put_device(&vgpu->core.vdev);
}

static void vgpu_reset_done(struct pci_dev *pdev)
{
	if (pdev->is_virtfn)
		vgpu_migration_reset(vgpu_of(&pdev->dev));
}

static const struct pci_error_handlers vgpu_error_handlers = { .reset_done = vgpu_reset_done };

/* Not exported to user space: a node whose test does not ask for this driver shall not load it by itself. */
static const struct pci_device_id vgpu_ids[] = {
	/* At first by driver_override: which of the adapters it is for is the node's choice. */
	{ PCI_DEVICE_SUB(PCI_VENDOR_ID_INTEL, IGB_PF, LAB_SUBSYSTEM_VENDOR, LAB_SUBSYSTEM_DEVICE) },
	{ PCI_DEVICE(PCI_VENDOR_ID_INTEL, IGB_VF) },
	{}
};

static struct pci_driver vgpu_driver = {
	.name = "nvidia",
	.id_table = vgpu_ids,
	.probe = vgpu_probe,
	.remove = vgpu_remove,
	.err_handler = &vgpu_error_handlers,
	.driver_managed_dma = true,
};
module_pci_driver(vgpu_driver);

MODULE_DESCRIPTION("Virtual functions with vGPU types, for Tranche's virtual lab");
MODULE_LICENSE("GPL");
/* The first of which NVIDIA says that it moves VMs; whether this one does is a parameter. */
MODULE_VERSION("550.90.0");
