"""Every knob, with its unit and its default. Other configurations are overlays of this one.

It trains the small ResShift U-Net on the built-in photographs. To change one knob from the command line:
    framer-jax train --config configs/default.py --workdir runs/try --set training.steps=500
"""

from ml_collections import ConfigDict, config_dict


def get_config() -> ConfigDict:
    """The default configuration."""
    config = ConfigDict()

    # --- what is trained: framer_jax.recipes.table builds it ---------------------------------------------------------
    recipe = config.recipe = ConfigDict()
    # resshift | sinsr | flow | dit4sr | tsd_sr; of a student, without space or denoiser: swinir | dtkd | augkd
    recipe.name = "resshift"
    recipe.scale = 4  # enlargement per axis
    recipe.dtype = "float32"  # compute dtype of the denoiser: float32 | bfloat16; parameters stay float32
    recipe.space = ConfigDict()
    recipe.space.name = (
        "wavelet"  # wavelet (training-free Haar codec) | vq_f4 (ResShift's autoencoder) | kl (Stable Diffusion's)
    )
    recipe.space.weights = ""  # vq_f4, kl: path of the autoencoder, from `framer-jax port` or as published
    recipe.space.shift = config_dict.placeholder(float)  # of kl, off normalised latents; None: its own (TSD-SR's: 0.0)
    recipe.space.levels = 2  # a latent position stands for 2^levels x 2^levels HR pixels; keep at the LR grid
    recipe.space.statistics = "residual"  # bands scaled to unit variance of: image | residual (hr - enlarged lr)
    recipe.denoiser = ConfigDict()
    recipe.denoiser.name = "unet"  # unet | dit | resshift_unet; of recipe.name dit4sr: dit4sr, of tsd_sr: mmdit
    recipe.denoiser.unet = ConfigDict()
    recipe.denoiser.unet.channels = (64, 96, 128)  # width of each level, finest first
    recipe.denoiser.unet.blocks = 2  # residual blocks per level, down and again up
    recipe.denoiser.unet.condition_blocks = 2  # residual blocks on the LR image before it meets the noise
    recipe.denoiser.unet.time_width = 128  # features of the time embedding
    recipe.denoiser.dit = ConfigDict()
    recipe.denoiser.dit.width = 96  # token width
    recipe.denoiser.dit.depth = 6  # blocks
    recipe.denoiser.dit.heads = 4  # attention heads
    recipe.denoiser.dit.patch = 2  # latent positions per token and axis
    recipe.denoiser.dit.taps = "hidden"  # what FRAMER compares: hidden | prediction
    swin = recipe.denoiser.resshift_unet = ConfigDict()  # the published Swin U-Net of ResShift and SinSR
    swin.channels = 160  # width of the finest level
    swin.multipliers = (1, 2, 2, 4)  # width of each level as a multiple of it
    swin.blocks = (2, 2, 2, 2)  # residual blocks of each level on the way down
    swin.swin_channels = 192  # width of the Swin layers
    swin.swin_blocks = 2  # Swin blocks of each layer
    swin.head_channels = 32  # width of an attention head
    swin.window = 8  # side of an attention window, latent positions
    swin.mlp_ratio = 4  # width of the perceptrons as a multiple of the layers'
    swin.image_size = 64  # nominal side of the latents, which decides the levels that shift their windows
    swin.condition_size = 64  # side of the LR image where the latents have that side
    swin.contrast = 0.0  # gain of the LR image's local contrast as a further input; 0: as published
    swin.mask = "released"  # of shifted windows: released (as in the published weights) | correct
    dit4sr = recipe.denoiser.dit4sr = ConfigDict()  # Stable Diffusion 3.5 medium with DiT4SR's LR stream
    dit4sr.depth = 24  # blocks
    dit4sr.heads = 24  # attention heads
    dit4sr.head_width = 64  # width of each
    dit4sr.dual_blocks = 13  # the first so many blocks also attend over the image alone
    dit4sr.qk_norm = True  # norms of queries and keys
    dit4sr.patch = 2  # latent positions per token and axis
    dit4sr.position_grid = 384  # side of the square of known positions, tokens
    dit4sr.compatibility = "correct"  # correct | released (with the released code's faults, for its weights)
    dit4sr.reading = "auto"  # how others attend to LR tokens: joint (as published) | added (step 0 is the base) | auto
    dit4sr.strength = 1.2  # factor of the convolved LR tokens in the perceptrons
    dit4sr.taps = "hidden"  # what FRAMER compares: hidden | prediction
    dit4sr.attention = "auto"  # who computes it: auto | xla | cudnn | manual
    dit4sr.remat = "none"  # of each block computed again for the gradient: none | attention | everything
    dit4sr.scan = False  # equal blocks as one program: compiles faster; paths are blocks_dual/…, blocks_single/…
    mmdit = recipe.denoiser.mmdit = ConfigDict()  # the transformer of Stable Diffusion 3 medium
    mmdit.depth = 24  # blocks
    mmdit.heads = 24  # attention heads
    mmdit.head_width = 64  # width of each
    mmdit.dual_blocks = 0  # the first so many blocks also attend over the image alone; 3.5 medium: 13
    mmdit.qk_norm = False  # norms of queries and keys; 3.5: True
    mmdit.patch = 2  # latent positions per token and axis
    mmdit.position_grid = 192  # side of the square of known positions, tokens; 3.5 medium: 384
    mmdit.taps = "hidden"  # what FRAMER compares: hidden | prediction
    mmdit.attention = "auto"  # who computes it: auto | xla | cudnn | manual
    mmdit.remat = "none"  # of each block computed again for the gradient: none | attention | everything
    mmdit.scan = False  # equal blocks as one program: compiles faster; paths are blocks_dual/…, blocks_single/…
    recipe.student = ConfigDict()
    recipe.student.name = "swinir"
    student = recipe.student.swinir = ConfigDict()  # the defaults are SwinIR-small
    student.head = "nearest+conv"  # pixelshuffle | pixelshuffledirect | nearest+conv
    student.channels = 60  # width
    student.depths = (6, 6, 6, 6)  # Swin blocks of each group
    student.heads = 6  # attention heads
    student.window = 8  # side of an attention window, LR pixels
    student.mlp_ratio = 2  # width of the perceptrons as a multiple of the channels
    student.residual = "1conv"  # what ends a group: 1conv | 3conv
    student.colours = 3  # channels of the pictures; recipes here train colour
    student.value_range = 1.0  # of the network's own numbers; the published JPEG models: 255
    student.image_size = 64  # nominal side of the input; windows are shifted if it exceeds the window
    student.drop_path = 0.1  # stochastic depth: probability of the last block, growing linearly from 0; training only
    recipe.teacher = ConfigDict()  # whom dtkd and augkd learn from; needed for training only
    recipe.teacher.weights = ""  # path of a trained model of ours, of any recipe, or of published weights
    recipe.teacher.published = ConfigDict()  # published weights alone: the `recipe` that they belong to, by an overlay
    recipe.teacher.output = "sample"  # which of its pictures teaches: sample | mean
    recipe.teacher.samples = 1  # pictures per image (of a precomputed record), each from noise of its own
    recipe.teacher.compare = "all"  # of them, in a step: all (the mean of the distances) | one (drawn)
    recipe.dtkd = ConfigDict()
    recipe.dtkd.weight = 1.0  # lambda at the end, of the distance of the student's picture to the teacher's
    recipe.dtkd.schedule = "linear"  # how lambda rises from 0: linear | cosine; or constant
    recipe.dtkd.ramp_steps = config_dict.placeholder(int)  # over which lambda rises; None: training.steps
    recipe.dtkd.transform = "dwt"  # the distance: dwt | dual_tree | fourier | pixel (distillation on pixels)
    recipe.dtkd.wavelet = "haar"  # of dwt, any discrete one of PyWavelets
    recipe.dtkd.levels = 2  # 1 to 4
    recipe.dtkd.border = "symmetric"  # of dwt
    recipe.dtkd.weights = (1.0, 2.0, 1.0)  # of the low, the middle and the high bands
    recipe.dtkd.norm = "l1"  # l1 | l2 (squared)
    recipe.dtkd.within = "sum"  # over the bands of a group: sum | mean
    recipe.augkd = ConfigDict()
    recipe.augkd.weight = 1.0  # of the student's distance to the teacher on the LR images
    recipe.augkd.auxiliary_weight = 1.0  # and on each kind of auxiliary image
    recipe.augkd.zoom_in = True  # auxiliary images that are parts of HR images
    recipe.augkd.zoom_out = True  # and LR images reduced once more
    recipe.augkd.transforms = ("invert", "flip", "mirror", "transpose")  # that the student alone sees them under
    recipe.augkd.probability = 0.5  # of each of them
    recipe.augkd.augment_pairs = False  # the LR images of the pairs too
    recipe.resshift = ConfigDict()
    recipe.resshift.steps = 4  # length T of the chain
    recipe.resshift.kappa = 1.0  # noise level, in standard deviations of the latent
    recipe.resshift.min_noise_level = 0.2  # noise of the first index, same unit
    recipe.resshift.etas_end = 0.99  # square root of eta at the last index
    recipe.resshift.power = 0.3  # exponent of the schedule's time warp
    recipe.resshift.sampling_steps = config_dict.placeholder(int)  # respaced steps of the sampler; None: all
    recipe.resshift.residual = True  # the chain runs on what the LR image lacks
    recipe.resshift.last_step_probability = 0.5  # share of examples at index T-1, which the one-step mean uses
    recipe.resshift.centred_probability = 0.0  # share of those that start from the prior's centre
    recipe.resshift.centred_mean = True  # the one-step mean starts from the prior's centre, not from a draw of it
    recipe.resshift.channel_weight_power = 1.0  # loss weight: band deviation to this power; 0 latent, 2 pixel MSE
    recipe.resshift.perceptual_weight = 0.0  # of the LPIPS distance of the decoded estimate to the HR image (v3: 1)
    recipe.lpips = ConfigDict()  # needed for training with a perceptual_weight only
    recipe.lpips.net = "vgg"  # vgg | alex
    recipe.lpips.weights = ""  # path of its weights, from `framer-jax port`
    recipe.sinsr = ConfigDict()  # distillation of the chain that recipe.resshift describes, into one step
    recipe.sinsr.teacher = ""  # path of the trained ResShift denoiser; needed for training only
    recipe.sinsr.distillation_weight = 1.0  # of the student's step against the end of the teacher's chain
    recipe.sinsr.inverse_weight = 1.0  # of the student's inverse against the chain's start
    recipe.sinsr.consistency_weight = 1.0  # of the student's step from its inverse of the HR latent against that latent
    recipe.flow = ConfigDict()
    recipe.flow.shift = 3.0  # time shift
    recipe.flow.sampling_steps = 8  # Euler steps
    recipe.flow.density = "logit_normal"  # of training times: logit_normal | mode | cosmap | uniform
    recipe.flow.weighting = "none"  # of the velocity error: none | sigma_sqrt | logit_normal | cosmap
    recipe.flow.residual = True  # the flow ends at what the LR image lacks
    recipe.flow.start_probability = 0.25  # share of examples at sigma 1, which the one-step mean uses

    recipe.dit4sr = ConfigDict()
    recipe.dit4sr.base = ""  # path of the transformer to start from, SD 3.5's or DiT4SR's: file, or diffusers' folder
    recipe.dit4sr.base_dtype = "float32"  # in which what is not trained is kept: float32 | bfloat16 (half the memory)
    recipe.dit4sr.trainable = "control"  # regex of the parameters that are trained; "": all
    recipe.dit4sr.lora = ""  # regex of the modules that get a LoRA beside; "": none
    recipe.dit4sr.lora_rank = 64
    recipe.dit4sr.lora_alpha = 64.0  # the LoRA is scaled by lora_alpha / lora_rank
    recipe.dit4sr.shift = 3.0  # time shift
    recipe.dit4sr.sampling_steps = 40  # Euler steps
    recipe.dit4sr.guidance = 1.0  # classifier-free guidance of the sampler; 1: none
    recipe.dit4sr.density = "logit_normal"  # of training times: logit_normal | mode | cosmap | uniform
    recipe.dit4sr.weighting = "none"  # of the error of the clean latent: none | sigma_sqrt | logit_normal | cosmap
    recipe.tsd_sr = ConfigDict()
    recipe.tsd_sr.base = ""  # path of Stable Diffusion 3's transformer: file, or diffusers' folder
    recipe.tsd_sr.base_dtype = "float32"  # in which it is kept: float32 | bfloat16 (half the memory)
    recipe.tsd_sr.teacher_lora = ""  # path of a LoRA that makes it the teacher; "": as it is; needed for training only
    # regex of the modules that get the student's LoRA: all that the published one has
    recipe.tsd_sr.lora = (
        r"attention(_2)?/(query|key|value|out)$|attention/(query|key|value)_text$"
        r"|modulation(_text)?$|mlp(_text)?/dense_0$|tokens/embed$|head/projection$"
    )
    recipe.tsd_sr.lora_rank = 64
    recipe.tsd_sr.encoder_lora = "^(encoder|after_encoder)"  # of the autoencoder's modules that get one; "": none
    recipe.tsd_sr.encoder_rank = 64
    # of the modules that get the LoRA which follows the student
    recipe.tsd_sr.regulariser_lora = r"attention(_2)?/(query|key|value|out)$|attention/(query|key|value)_text$"
    recipe.tsd_sr.regulariser_rank = 64
    recipe.tsd_sr.lora_scale = 1.0  # alpha / rank of the three
    recipe.tsd_sr.shift = 3.0  # time shift
    recipe.tsd_sr.guidance = 7.5  # of teacher and regulariser, from the empty text
    recipe.tsd_sr.distillation_weight = 1.0  # of target-score distillation
    recipe.tsd_sr.variational_share = 0.7  # of its variational direction; the rest is target-score matching
    recipe.tsd_sr.substeps = 1  # along the trajectories, 1 to 4; more than 1: distribution-aware sampling (DASM)
    recipe.tsd_sr.substep_size = 50  # entries of the table of 1000 sigmas
    recipe.tsd_sr.substep_bias = True  # their common end is moved by chance
    recipe.tsd_sr.latent_weight = 1.0  # of the mean square error of the latent
    recipe.tsd_sr.perceptual_weight = 1.0  # of LPIPS (recipe.lpips) of the decoded picture
    recipe.text = ConfigDict()  # what the denoisers of dit4sr and tsd_sr are told
    recipe.text.condition = "captions"  # captions | null (the empty text) | zero (no text encoder at all)
    recipe.text.null = ""  # embedding of the empty text, from `framer-jax precompute embeddings --null`
    recipe.text.wanted = ""  # embedding of what sampling asks of every picture; "": the empty text
    recipe.text.avoided = ""  # that guidance leads away from, as long as `wanted`; "": the empty text
    recipe.text.clip_length = 77  # tokens of the CLIP encoders
    recipe.text.t5_length = 77  # tokens of T5 in training; dit4sr's `wanted` and `avoided` may have others (256)
    recipe.text.clip_widths = (768, 1280)  # features of CLIP-L and CLIP-G; their sum is that of the pooled text
    recipe.text.width = 4096  # features of T5, and of the denoiser's text tokens

    # --- FRAMER on top of it: framer_jax.losses.framer; None keeps the reading's own value ---------------------------
    framer = config.framer = ConfigDict()
    framer.reading = "none"  # none | paper | released
    framer.objective = config_dict.placeholder(str)  # none | l2 | contrastive | full
    framer.bands = config_dict.placeholder(str)  # disc (fixed radius) | quantile (of the teacher's magnitudes)
    framer.radius = config_dict.placeholder(float)  # of the disc, fraction of the Nyquist frequency
    framer.quantile = config_dict.placeholder(float)  # share of magnitudes in the low band
    framer.compare = config_dict.placeholder(str)  # spectra | magnitudes
    framer.teacher = config_dict.placeholder(str)  # last | middle | next
    framer.teacher_layer = config_dict.placeholder(int)  # tap number of a middle teacher
    framer.last_is_student = config_dict.placeholder(bool)  # the last tap is a student of the output too
    framer.negatives = config_dict.placeholder(str)  # none | random | previous
    framer.negatives_of_all_images = config_dict.placeholder(bool)  # InterCL: the drawn layer of every image
    framer.low_loss = config_dict.placeholder(str)  # intra | inter
    framer.high_loss = config_dict.placeholder(str)  # intra | inter
    framer.temperature = config_dict.placeholder(float)  # divides every cosine
    framer.adaptive_weight = config_dict.placeholder(bool)  # FAW
    framer.adaptive_modulation = config_dict.placeholder(bool)  # FAM
    framer.magnitude_relative_to = config_dict.placeholder(str)  # teacher | student | absolute
    framer.magnitude_per_channel = config_dict.placeholder(bool)  # mean of the channels' quotients
    framer.epsilon = config_dict.placeholder(float)  # guards quotients
    framer.weight = config_dict.placeholder(float)  # lambda, of the whole term
    framer.start_step = config_dict.placeholder(int)  # steps before the term acts
    framer.ramp_steps = config_dict.placeholder(int)  # steps over which lambda rises after that
    framer.reduction = config_dict.placeholder(str)  # over students: sum | mean

    # --- data: framer_jax.data ---------------------------------------------------------------------------------------
    data = config.data = ConfigDict()
    # builtin (photographs of scikit-image, -learn) | a folder of images, searched recursively | one of records, from
    # `framer-jax precompute`
    data.train = "builtin"
    data.embeddings = ""  # with precomputed latents: folder from `framer-jax precompute embeddings --captions`
    data.null_ratio = 0.2  # share of examples with the empty text instead of their caption's
    data.validation = "builtin"  # builtin (the held-out ones) | a folder
    data.validation_count = 3  # at most this many validation images
    data.crop = 128  # side of a training crop, HR pixels
    data.framing = "crop"  # crop (of the photograph's pixels) | square (its largest square, reduced to the crop's side)
    data.turns = False  # beside left to right, also flip crops upside down and transpose them, each by chance
    data.threads = 2  # decoding threads of this process
    data.workers = 0  # decoding processes; a checkpoint resumes only with the same number
    # bicubic | light_one_stage | framer_paper | framer_released | real_esrgan | resshift | resshift_testing: see
    # framer_jax.degradations.presets. (The two-stage ones reduce to .15: crops of 64 pixels or more make sense.)
    data.degradation = "light_one_stage"

    # --- training: framer_jax.training.settings ----------------------------------------------------------------------
    training = config.training = ConfigDict()
    training.seed = 0  # root of every random number
    training.steps = 2000  # optimiser steps
    training.global_batch = 16  # examples per step over all devices and hosts
    training.gradient_accumulation_steps = 1  # microbatches per step
    training.learning_rate = 1e-3  # peak
    training.warmup_steps = 100  # linear from 0
    training.schedule = "cosine"  # constant | cosine, to final_learning_rate at the last step
    training.final_learning_rate = 1e-5
    training.optimizer = "adamw"
    training.b1 = 0.9  # Adam's decay of the mean gradient
    training.b2 = 0.999  # Adam's decay of the squared gradient
    training.epsilon = 1e-8  # Adam's, in units of the gradient
    training.weight_decay = 0.0  # of matrices and kernels
    training.clip_norm = config_dict.placeholder(float)
    training.clip_norm = 1.0  # global gradient norm; None: off
    training.ema_decay = 0.999  # of the parameters; 0: off
    training.mesh = ConfigDict()
    training.mesh.data = -1  # devices along the batch; -1: all that are left
    training.mesh.fsdp = 1  # devices that parameters are sharded over
    training.fsdp_min_size = 65536  # array elements; smaller arrays are replicated
    training.sharding_rules = ()  # of (regex of a parameter's path, mesh axis or None per dimension); the first wins
    training.log_every = 50  # steps
    training.validate_every = 500  # steps; the last one is always validated
    training.checkpoint_every = 500  # steps
    training.keep_last = 2  # newest checkpoints kept
    training.best_metric = config_dict.placeholder(str)  # a placeholder may be set back to None: no best checkpoint
    training.best_metric = "mean/psnr-y"  # of the validation; its best checkpoint is kept too
    training.best_mode = "max"  # max | min
    training.stop_after = config_dict.placeholder(int)  # stop at this step, schedules unchanged
    # Name of a recipe's update to optimiser fields of its own, for recipes with several updates. An overlay writes
    #   config.training.updates = {"denoiser": {"learning_rate": 1e-4}}
    training.updates = ConfigDict()

    # --- logging: framer_jax.training.logging; metrics.jsonl and images/ are always written --------------------------
    config.logging = ConfigDict()
    config.logging.tensorboard = False  # also write tensorboard/ (extra `tensorboard`)
    return config.lock()  # an overlay cannot add a misspelt key
