"""STaR: from problems to a model of your own (Zelikman et al. 2022, arXiv 2203.14465).

The method: a base model writes rationales for problems whose answers are known. Those that end in
the reference answer are kept; for the rest it is told the answer as a hint, and what then ends in
it is kept too, without the hint. The base model, never the last iteration's, is trained on what
was kept; the trained model writes the next iteration's rationales.

Where we depart from the paper:

1. A rationale is kept only if no equation in it is false (`steps.check_steps`), not only if its
   answer is right. A hinted model writes wrong steps that end in the right answer.
2. A rationale that speaks of the hint, or copies it, is dropped (`verify.leaks_hint`); the paper
   reports the echo and keeps it.
3. An answer that cannot be parsed is neither right nor wrong. The paper has no third case.
4. Prompts are chats: the shots are turns of user and assistant, since the base models of today
   are instruct models. An adapter is sampled as it was trained, without shots.
5. Every rationale ends in "The answer is X.", for all kinds of problem, where the paper has a
   form for each data set.
6. Train, validation and test are parts of one set by the hash of a problem's group, so that no
   permutation of a training sum is tested; the paper splits by row.
7. Problems without a key, the store's among them, are for training alone, and what is written for
   them has an origin of its own, "reward-filtered": kept by a scorer's reward, never called right.
   That is best-of-n distillation and no part of STaR.
8. Other models may write rationales too, if their terms let them train a model: in the first
   iteration alone, few-shot and without hints, for the same problems, verified like the rest. From
   the second on the trained model writes alone, as in the paper. With a teacher the first adapter
   is distilled in part; `by` says from whom.
9. A scorer may rank what verifies, and drops what it finds incorrect or incoherent where there is
   no equation to check. The paper has none.
"""
