// SPDX-License-Identifier: GPL-2.0-only
/*
 * VFIO migration of the lab's vGPUs, off unless the module is loaded with migration=1.
 *
 * STOP_COPY alone. The device's state is a header and some MiB of a pattern that follows from the header's seed; the
 * receiver computes the pattern again and refuses a stream that differs in a single bit, is cut off, or comes from a
 * vGPU of another size. That is what tells a migration that worked from one that only did not fail.
 *
 * A stream is a buffer that is allocated whole, made before it can be read, and checked once it is complete, so that
 * nothing needs a lock while user memory is copied.
 *
 * Deliberately absent: logging of dirty memory. The device does no DMA, and what QEMU does without it is to be seen.
 */

#include <linux/anon_inodes.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/hash.h>
#include <linux/mm.h>
#include <linux/module.h>

#include "vgpu.h"

#define STREAM_MAGIC 0x545247505556474cULL
#define STATE_MIB_MAX 256U

static bool migration;
module_param(migration, bool, 0444);
MODULE_PARM_DESC(migration, "Whether vGPUs can be migrated");

static unsigned int state_mib = 8;
module_param(state_mib, uint, 0444);
MODULE_PARM_DESC(state_mib, "Size of a vGPU's state, in MiB, at most 256");

/* Both ends are x86-64: in the byte order of the machine. */
struct stream_header {
	u64 magic;
	u64 seed;
	u64 framebuffer_mib;
	u64 pattern_words;
};

struct stream {
	size_t size;
	size_t received;
	union {
		struct stream_header header;
		DECLARE_FLEX_ARRAY(u8, bytes);
	};
};

static size_t pattern_words(void)
{
	return (size_t)clamp(state_mib, 1U, STATE_MIB_MAX) * (SZ_1M / sizeof(u64));
}

static size_t stream_size(void)
{
	return sizeof(struct stream_header) + pattern_words() * sizeof(u64);
}

static u64 *pattern_of(const struct stream *stream)
{
	return (u64 *)(&stream->header + 1);
}

static u64 pattern_word(u64 seed, size_t index)
{
	return (seed + index) * GOLDEN_RATIO_64;
}

static ssize_t stream_read(struct file *file, char __user *to, size_t count, loff_t *pos)
{
	struct stream *stream = file->private_data;

	return simple_read_from_buffer(to, count, pos, stream->bytes, stream->size);
}

static ssize_t stream_write(struct file *file, const char __user *from, size_t count, loff_t *pos)
{
	struct stream *stream = file->private_data;
	ssize_t written;

	if (*pos + count > stream->size)
		return -EINVAL;
	written = simple_write_to_buffer(stream->bytes, stream->size, pos, from, count);
	if (written > 0)
		stream->received = *pos;
	return written;
}

static int stream_release(struct inode *inode, struct file *file)
{
	kvfree(file->private_data);
	return 0;
}

static const struct file_operations save_fops = {
	.owner = THIS_MODULE,
	.read = stream_read,
	.release = stream_release,
};

static const struct file_operations resume_fops = {
	.owner = THIS_MODULE,
	.write = stream_write,
	.release = stream_release,
};

/* A file for the caller; the function keeps a reference of its own. */
static struct file *open_stream(struct vgpu *vgpu, const struct file_operations *fops, int flags)
{
	struct stream *stream = kvzalloc(offsetof(struct stream, bytes) + stream_size(), GFP_KERNEL_ACCOUNT);
	struct file *file;

	if (!stream)
		return ERR_PTR(-ENOMEM);
	stream->size = stream_size();
	file = anon_inode_getfile("tranche-lab-vgpu", fops, stream, flags);
	if (IS_ERR(file))
		kvfree(stream);
	else
		vgpu->stream = get_file(file);
	return file;
}

static void close_stream(struct vgpu *vgpu)
{
	if (vgpu->stream)
		fput(vgpu->stream);
	vgpu->stream = NULL;
}

static struct file *save(struct vgpu *vgpu)
{
	struct file *file = open_stream(vgpu, &save_fops, O_RDONLY);
	struct stream *stream;
	size_t index;

	if (IS_ERR(file))
		return file;
	stream = file->private_data;
	stream->header = (struct stream_header) {
		.magic = STREAM_MAGIC,
		.seed = vgpu->seed,
		.framebuffer_mib = vgpu->type->size_mib,
		.pattern_words = pattern_words(),
	};
	for (index = 0; index < pattern_words(); index++)
		pattern_of(stream)[index] = pattern_word(vgpu->seed, index);
	return file;
}

static int take_over(struct vgpu *vgpu)
{
	const struct stream_header *header;
	const struct stream *stream;
	size_t index;

	/* It was refused before, and nobody reset the device since. */
	if (!vgpu->stream)
		return -EINVAL;
	stream = vgpu->stream->private_data;
	header = &stream->header;
	if (stream->received != stream->size || header->magic != STREAM_MAGIC ||
	    header->framebuffer_mib != vgpu->type->size_mib || header->pattern_words != pattern_words()) {
		pci_err(vgpu->core.pdev, "refuses a state that is not that of a vGPU like this one\n");
		return -EINVAL;
	}
	for (index = 0; index < pattern_words(); index++) {
		if (pattern_of(stream)[index] != pattern_word(header->seed, index)) {
			pci_err(vgpu->core.pdev, "refuses a state that changed on its way, at word %zu\n", index);
			return -EINVAL;
		}
	}
	vgpu->seed = header->seed;
	pci_info(vgpu->core.pdev, "took over a state of %zu bytes, seed %016llx\n", stream->size, vgpu->seed);
	return 0;
}

/* One arc of the state machine. */
static struct file *step(struct vgpu *vgpu, enum vfio_device_mig_state to)
{
	enum vfio_device_mig_state from = vgpu->state;
	int error = 0;

	if (from == VFIO_DEVICE_STATE_STOP && to == VFIO_DEVICE_STATE_STOP_COPY)
		return save(vgpu);
	if (from == VFIO_DEVICE_STATE_STOP && to == VFIO_DEVICE_STATE_RESUMING)
		return open_stream(vgpu, &resume_fops, O_WRONLY);
	if (from == VFIO_DEVICE_STATE_RESUMING)
		error = take_over(vgpu);
	close_stream(vgpu);
	return ERR_PTR(error);
}

static struct file *vgpu_set_state(struct vfio_device *vdev, enum vfio_device_mig_state wanted)
{
	struct vgpu *vgpu = container_of(vdev, struct vgpu, core.vdev);
	struct file *file = NULL;

	mutex_lock(&vgpu->state_lock);
	while (vgpu->state != wanted) {
		enum vfio_device_mig_state next;
		int error = vfio_mig_get_next_state(vdev, vgpu->state, wanted, &next);

		file = error ? ERR_PTR(error) : step(vgpu, next);
		if (IS_ERR(file))
			break;
		vgpu->state = next;
	}
	mutex_unlock(&vgpu->state_lock);
	return file;
}

static int vgpu_get_state(struct vfio_device *vdev, enum vfio_device_mig_state *state)
{
	struct vgpu *vgpu = container_of(vdev, struct vgpu, core.vdev);

	mutex_lock(&vgpu->state_lock);
	*state = vgpu->state;
	mutex_unlock(&vgpu->state_lock);
	return 0;
}

static int vgpu_get_data_size(struct vfio_device *vdev, unsigned long *size)
{
	*size = stream_size();
	return 0;
}

static const struct vfio_migration_ops migration_ops = {
	.migration_set_state = vgpu_set_state,
	.migration_get_state = vgpu_get_state,
	.migration_get_data_size = vgpu_get_data_size,
};

/* Before the device is registered. */
void vgpu_migration_init(struct vgpu *vgpu)
{
	mutex_init(&vgpu->state_lock);
	vgpu->state = VFIO_DEVICE_STATE_RUNNING;
	if (!migration)
		return;
	vgpu->core.vdev.migration_flags = VFIO_MIGRATION_STOP_COPY;
	vgpu->core.vdev.mig_ops = &migration_ops;
}

/* A device that was reset, or closed, runs. */
void vgpu_migration_reset(struct vgpu *vgpu)
{
	mutex_lock(&vgpu->state_lock);
	close_stream(vgpu);
	vgpu->state = VFIO_DEVICE_STATE_RUNNING;
	mutex_unlock(&vgpu->state_lock);
}
