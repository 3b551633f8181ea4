# Two commands do everything on a fresh machine: `make demo` and `make test`.
# Needed beforehand: Python >= 3.10 with venv, and make.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
RUNS   := runs

.PHONY: demo test test-lowest test-highest lint train evaluate notebook picture pictures directions clean

# the notebook from a clean kernel; pictures, texts and records land in output/<mode>, figures in
# output/figures
demo: $(READY)
	mkdir -p output
	$(BIN)/python -m nbconvert --to notebook --execute run_inference_analyse.ipynb \
		--output-dir output --output demo.ipynb
	@$(MAKE) --no-print-directory directions
	@echo "Look into output/: a folder for each mode, demo.ipynb, and what vd-emoji drew (above)."

test: $(READY)
	$(BIN)/python -m pytest

# the tests with the lowest and with the highest versions that are allowed, each in an environment of
# its own, of any Python: make test-lowest PYTHON=python3.10
test-lowest: RESOLUTION := lowest-direct
test-highest: RESOLUTION := highest
test-lowest test-highest: test-%:
	$(PYTHON) -m venv $(VENV)-$*
	$(VENV)-$*/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(VENV)-$*/bin/uv pip install --quiet --upgrade --python $(VENV)-$*/bin/python \
		--resolution $(RESOLUTION) -r requirements_analyse.txt
	$(VENV)-$*/bin/python -m pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# every stage from nothing into runs/vd-mini, which `load` takes; stop and start again at will
train: $(READY)
	$(BIN)/python -m training all --runs $(RUNS) --out $(RUNS)/vd-mini --judge $(RUNS)/judge

# the published numbers, measured anew and put into README and model card; goes on where it stopped
MEASURE := $(BIN)/python -m torch.distributed.run --standalone --nproc-per-node 2 -m -- \
	analysis evaluate --model vd-mini --seed 7 --sampler dpmpp_2m --steps 20
evaluate: $(READY)
	@flows=$$($(MEASURE) --n 1000 --sweep-steps 20,50 --sweep-sampler ddim,dpmpp_2m \
		--sweep-scale 1,1.5,2,3,5 --sweep-fidelity 0,0.25,0.5,0.75 \
		--search-n 1000 --caption-n 500 | tee /dev/stderr | grep 'report.json$$') && \
	effects=$$($(MEASURE) --n 100 --suite applications | tee /dev/stderr | grep 'report.json$$') && \
	$(BIN)/python -m analysis publish $$flows $$effects
	@drawings=$$($(MEASURE:vd-mini=vd-emoji) --suite emoji --n 171 --caption-n 171 \
		--caption-candidates 8 | tee /dev/stderr | grep 'report.json$$') && \
	$(BIN)/python -m analysis publish --model pretrained/vd-emoji $$drawings && \
	mkdir -p assets/emoji && for sheet in from-captions variations focus dual; do \
		cp $$(dirname $$drawings)/figures/$$sheet.png assets/emoji/ || exit 1; done

# the notebook as it is committed, with its outputs, and the figures that the README shows of it
SHOWN := four-flows readability guidance-over-time
notebook: $(READY)
	@start=$$(date +%s); \
	$(BIN)/python -m nbconvert --to notebook --execute --inplace run_inference_analyse.ipynb \
		--ExecutePreprocessor.record_timing=False && \
	echo "The notebook took $$(($$(date +%s) - start)) s."
	mkdir -p assets/figures
	for name in $(SHOWN); do cp output/figures/$$name.png assets/figures/ || exit 1; done

# all four directions by the model of drawings, in a new folder; the README's first picture
DRAW := $(BIN)/python -m analysis
SHEET ?= $$folder/four-directions.png
picture: SHEET := assets/four-directions.png
picture directions: $(READY)
	@mkdir -p output && folder=$$(mktemp -d output/vd-emoji-XXXX) && \
	with="--model vd-emoji --sampler dpmpp_2m --steps 20 --seed 20 --out $$folder" && \
	$(DRAW) t2i $$with --n 5 "a rocket in the style of emojione on a dark blue background" && \
	$(DRAW) i2i $$with --n 4 assets/drawings/strawberry-noto.png && \
	$(DRAW) i2t $$with --n 3 assets/drawings/strawberry-noto.png && \
	$(DRAW) t2t $$with --n 3 "en français: a frog by noto on a mint background" && \
	$(BIN)/python -m analysis.results.mode_sheets $$folder assets/drawings $(SHEET)

# the README's pictures of the modes, one each
pictures: $(READY)
	rm -rf output/pictures
	$(BIN)/python -m analysis t2i --n 4 --seed 20 --out output/pictures \
		"a large red circle above a small blue square on a white background" \
		"a large blue star with dots on cream"
	$(BIN)/python -m analysis i2i --n 4 --seed 20 --out output/pictures assets/pictures
	$(BIN)/python -m analysis i2t --n 3 --seed 20 --out output/pictures assets/pictures
	$(BIN)/python -m analysis t2t --n 3 --seed 20 --out output/pictures \
		"a striped picture of a small green star left of a big yellow heart on gray" \
		"on a cyan background, a tiny pink ring under a large black cross in outlined style"
	$(BIN)/python -m analysis focus --seed 20 --out output/pictures \
		assets/pictures/black-heart.png assets/pictures/green-star-above-purple-square.png
	$(BIN)/python -m analysis dual --strength 0 0.25 0.5 0.75 1 --n 2 --seed 20 \
		--out output/pictures assets/pictures/black-heart.png \
		--text "a striped picture of a small red star on a white background"
	$(BIN)/python -m analysis describe --strength 0 0.5 1 --n 2 --seed 20 \
		--out output/pictures assets/pictures/black-heart.png \
		--text "a striped picture of a small red star on a white background"
	$(BIN)/python -m analysis blend --n 4 --seed 20 --out output/pictures \
		assets/pictures/black-heart.png assets/pictures/green-star-above-pink-triangle.png
	$(BIN)/python -m analysis edit --out output/pictures assets/pictures/black-heart.png \
		--source "a dotted picture of a large black heart on a cream background" \
		--target "a dotted picture of a large red heart on a cream background"
	$(BIN)/python -m analysis edit --out output/pictures assets/pictures/black-heart.png \
		--source "a dotted picture of a large black heart on a cream background" \
		--target "a striped picture of a large black heart on a cream background"
	$(BIN)/python -m analysis latent-edit --remove black --add red --n 4 --seed 20 \
		--out output/pictures assets/pictures/black-heart.png
	$(BIN)/python -m analysis interpolate --frames 9 --seed 20 --out output/pictures \
		"a dotted picture of a large black heart on a cream background" \
		"a striped picture of a small red star on a white background"
	for mode in t2i i2i i2t t2t focus dual describe blend edit latent-edit interpolate; do \
		$(BIN)/python -m analysis.results.mode_sheets output/pictures/$$mode assets/pictures \
			assets/modes/$$mode.png || exit 1; \
	done
	$(BIN)/python -m analysis search index output/pictures/i2i --out output/pictures
	$(BIN)/python -m analysis search query --text "a green star" --not "a purple square" --k 6 \
		--out output/pictures
	cp output/pictures/search/0001_*.png assets/modes/search.png

# the environment is made again whenever the requirements change
$(READY): requirements_analyse.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python >= 3.10 is needed: make PYTHON=/path/to/python3 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV) || \
		{ echo "python3 -m venv failed: install your system's python3-venv package."; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements_analyse.txt
	@touch $@

clean:
	rm -rf $(VENV)
