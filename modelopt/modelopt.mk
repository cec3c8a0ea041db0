# Make rules for modelopt: include this file and ask for model.int8.onnx.
#
#   include modelopt.mk
#   MODELOPT_CALIB := data/calib.npz
#   all: model.int8.onnx
#
# A rule runs again only when the model, the calibration or the evaluation data are newer than the result.
# Printed by `modelopt makefile`.

MODELOPT         ?= modelopt
MODELOPT_CALIB   ?=
MODELOPT_EVAL    ?=
MODELOPT_FLAGS   ?=
MODELOPT_RECIPE  ?=

_modelopt_eval = $(if $(MODELOPT_EVAL),--eval $(MODELOPT_EVAL))

# Exact: constants folded, what does nothing removed.
%.folded.onnx: %.onnx $(MODELOPT_EVAL)
	$(MODELOPT) fold $(_modelopt_eval) $(MODELOPT_FLAGS) $< -o $@

# Exact: operators merged into fewer, faster ones.
%.fused.onnx: %.onnx $(MODELOPT_EVAL)
	$(MODELOPT) fuse $(_modelopt_eval) $(MODELOPT_FLAGS) $< -o $@

# Half of the weights set to zero; MODELOPT_FLAGS takes --sparsity.
%.pruned.onnx: %.onnx $(MODELOPT_EVAL)
	$(MODELOPT) prune $(_modelopt_eval) $(MODELOPT_FLAGS) $< -o $@

# int8: static when MODELOPT_CALIB names data, else dynamic.
%.int8.onnx: %.onnx $(MODELOPT_CALIB) $(MODELOPT_EVAL)
	$(MODELOPT) quantize $(if $(MODELOPT_CALIB),--calib $(MODELOPT_CALIB),--mode dynamic) \
		$(_modelopt_eval) $(MODELOPT_FLAGS) $< -o $@

# Whatever the recipe in MODELOPT_RECIPE says.
%.optimized.onnx: %.onnx $(MODELOPT_RECIPE) $(MODELOPT_EVAL)
	$(MODELOPT) run $(MODELOPT_RECIPE) $< $(_modelopt_eval) $(MODELOPT_FLAGS) -o $@
