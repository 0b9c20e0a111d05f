r"""Writes a trained network as a program for other systems.

  alexnet export --format=onnx --workdir=runs/imagenet2012 \
    --file=alexnet.onnx

Each takes float32 images [batch, crop, crop, 3], any batch, pixels of 0
to 255 in RGB (the mean is subtracted and the views are scaled inside), and
gives logits:

  stablehlo  `jax.export`'s serialization, for CPUs, GPUs and TPUs; run it with
             `jax.export.deserialize(bytes).call(images)`
  onnx       for onnxruntime and others, with class_names in its metadata; needs
             pip install -e '.[export]'
  tf         a SavedModel folder; needs tensorflow installed
"""

from absl import flags

from alexnet_jax.runtime import errors, options

_FORMAT = flags.DEFINE_enum(
  'format', None, ['stablehlo', 'onnx', 'tf'], 'See above.', required=True
)
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Of the run, or a safetensors file of ours.', required=True
)
_CHECKPOINT = options.checkpoint('Of the run: ')
_FILE = flags.DEFINE_string('file', None, 'To write.', required=True)


def main(_) -> None:
  from etils import epath

  from alexnet_jax import library
  from alexnet_jax.formats import onnx
  from alexnet_jax.runtime import files

  model = library.load(_WORKDIR.value, _CHECKPOINT.value)
  path = epath.Path(_FILE.value)
  if _FORMAT.value == 'onnx':
    onnx.write(path, model.network(), model.mean, model.scale)
  elif _FORMAT.value == 'tf':
    save_tf(path, model)
  else:
    with files.explained(path):
      files.write_atomically(path, model.stablehlo())
  print(f'{path} has the network of {model.stage}', flush=True)


def save_tf(path, model) -> None:
  try:
    import tensorflow as tf
  except ImportError:
    raise errors.UserError(
      '--format=tf needs tensorflow, which is not installed: pip install '
      'tensorflow-cpu, or take --format=onnx or stablehlo'
    ) from None
  from jax.experimental import jax2tf

  from alexnet_jax.runtime import files

  size = model.augment.crop_size
  module = tf.Module()
  module.logits = tf.function(
    jax2tf.convert(
      model.pixels_to_logits,
      polymorphic_shapes=['(b, _, _, _)'],
      with_gradient=False,
    ),
    input_signature=[tf.TensorSpec([None, size, size, 3], tf.float32)],
    autograph=False,
  )
  with files.explained(path):
    tf.saved_model.save(module, str(path))


if __name__ == '__main__':
  errors.run(main)
