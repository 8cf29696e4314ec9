(** Write-once registers: one single-decree Paxos per register, captured in ranges.

    An independent theorem about the protocol: not about the Python code (that is the SMT part), and
    not with its invariant.  The state is the set of all messages ever sent, and messages are never
    removed: so loss, delay, duplication and reordering are covered, and an acceptor's state is a
    function of what it has sent, that is, durable before its answer leaves.

    Acceptors, quorums, ballots, values and registers are unbounded.  There are no axioms.

    Covered: captures of ranges, granted whole or not at all; reports that come with the promise or
    in later pages, from the quorum and from others; completion; a free choice where nothing was
    reported; helping (the same message again); unsafe writes, under ballot 0 and with one value;
    marks, which say that a register was decided at a ballot; trim, after which an acceptor says
    [Gone], accepts nothing any more and may have forgotten all. *)

Require Import Arith Lia.

Section Register.

Variables (Acceptor Reg Value : Type).
Variable quorum : (Acceptor -> Prop) -> Prop.
Hypothesis quorums_meet : forall Q1 Q2, quorum Q1 -> quorum Q2 -> exists a, Q1 a /\ Q2 a.

Inductive message :=
| Capture (b : nat) (range : Reg -> Prop)
| Promise (a : Acceptor) (r : Reg) (b : nat)
| Report (a : Acceptor) (r : Reg) (b : nat) (row : option (nat * Value))
| Write (r : Reg) (b : nat) (v : Value)
| Accepted (a : Acceptor) (r : Reg) (b : nat) (v : Value)
| Mark (r : Reg) (b : nat)
| Gone (a : Acceptor).

Definition state := message -> Prop.
Definition start : state := fun _ => False.

(** [a] has promised [b] or more on [r]: by a capture, or by accepting. *)
Definition promised (s : state) a r b :=
  (exists b', s (Promise a r b') /\ b <= b') \/ (exists b' v, s (Accepted a r b' v) /\ b <= b').

(** The row of [a] for [r]: what it accepted last. *)
Definition is_row (s : state) a r (row : option (nat * Value)) :=
  match row with
  | None => forall b v, ~ s (Accepted a r b v)
  | Some (rb, rv) => s (Accepted a r rb rv) /\ forall b v, s (Accepted a r b v) -> b <= rb
  end.

(** A quorum has accepted [v] under [b]. *)
Definition chosen_at (s : state) r b v := exists Q, quorum Q /\ forall a, Q a -> s (Accepted a r b v).
Definition chosen (s : state) r v := exists b, chosen_at s r b v.

(** The register whose decision trims the segment. *)
Variable trim : Reg.

Definition sends (s s' : state) (new : message -> Prop) := forall m, s' m <-> s m \/ new m.

Inductive step (s s' : state) : Prop :=
| DoCapture b range : sends s s' (eq (Capture b range)) -> step s s'
| DoPromise a b range :
    s (Capture b range) -> ~ s (Gone a) ->
    (forall r, range r -> ~ promised s a r b) ->
    sends s s' (fun m => exists r, range r /\ m = Promise a r b) -> step s s'
| DoReport a r b row :
    s (Promise a r b) -> ~ s (Gone a) -> is_row s a r row ->
    sends s s' (eq (Report a r b row)) -> step s s'
| DoWrite r b v Q :
    quorum Q -> (forall v', ~ s (Write r b v')) ->              (* one value per ballot *)
    (forall a, Q a -> exists row, s (Report a r b row)) ->
    ((forall a row, Q a -> s (Report a r b row) -> row = None) \/ (* free: any value *)
     (exists a m, s (Report a r b (Some (m, v))) /\              (* else the highest reported *)
        forall a' m' v', Q a' -> s (Report a' r b (Some (m', v'))) -> m' <= m)) ->
    sends s s' (eq (Write r b v)) -> step s s'
| DoUnsafe r v :
    (forall v', s (Write r 0 v') -> v' = v) ->                  (* the issuer's promise *)
    sends s s' (eq (Write r 0 v)) -> step s s'
| DoAccept a r b v :
    s (Write r b v) -> ~ s (Gone a) -> ~ promised s a r (S b) ->
    sends s s' (eq (Accepted a r b v)) -> step s s'
| DoMark r b v : chosen_at s r b v -> sends s s' (eq (Mark r b)) -> step s s'
| DoTrim a v : chosen s trim v -> sends s s' (eq (Gone a)) -> step s s'.

Inductive reachable : state -> Prop :=
| AtStart : reachable start
| AfterStep s s' : reachable s -> step s s' -> reachable s'.

(** ** The invariant *)

(** [a] has not accepted anything for [r] under [b], and never will. *)
Definition passed (s : state) a r b := (forall v, ~ s (Accepted a r b v)) /\ promised s a r (S b).

Record Inv (s : state) : Prop := {
  inv_accepted : forall a r b v, s (Accepted a r b v) -> s (Write r b v);
  inv_unique : forall r b v v', s (Write r b v) -> s (Write r b v') -> v = v';
  inv_report : forall a r b row, s (Report a r b row) -> s (Promise a r b);
  inv_some : forall a r b m v, s (Report a r b (Some (m, v))) ->
    s (Accepted a r m v) /\ forall b' w, m < b' -> b' < b -> ~ s (Accepted a r b' w);
  inv_none : forall a r b, s (Report a r b None) -> forall b' w, b' < b -> ~ s (Accepted a r b' w);
  inv_safe : forall r b v, s (Write r b v) -> forall c, c < b ->
    exists Q, quorum Q /\ forall a, Q a -> s (Accepted a r c v) \/ passed s a r c }.

Theorem inv_agreement s r v v' : Inv s -> chosen s r v -> chosen s r v' -> v = v'.
Proof.
  intros I.
  assert (L : forall b b' w w', b < b' ->
     (exists Q, quorum Q /\ forall a, Q a -> s (Accepted a r b w)) ->
     (exists Q, quorum Q /\ forall a, Q a -> s (Accepted a r b' w')) -> w = w').
  { intros b b' w w' Hlt (Q & HQ & HV) (Q' & HQ' & HV').
    destruct (quorums_meet Q' Q' HQ' HQ') as (a0 & Ha0 & _).
    destruct (inv_safe s I r b' w' (inv_accepted s I _ _ _ _ (HV' a0 Ha0)) b Hlt) as (Q2 & HQ2 & H2).
    destruct (quorums_meet Q Q2 HQ HQ2) as (a & Ha & Ha2).
    destruct (H2 a Ha2) as [Hv | [Hw _]].
    - eapply (inv_unique s I); eapply (inv_accepted s I); eauto.
    - destruct (Hw w (HV a Ha)). }
  intros (b & Q & HQ & HV) (b' & Q' & HQ' & HV').
  destruct (lt_eq_lt_dec b b') as [[H | ->] | H].
  - eapply (L b b'); eauto.
  - destruct (quorums_meet Q Q' HQ HQ') as (a & Ha & Ha').
    eapply (inv_unique s I); eapply (inv_accepted s I); eauto.
  - symmetry; eapply (L b' b); eauto.
Qed.

Lemma promised_grows s s' new a r b : sends s s' new -> promised s a r b -> promised s' a r b.
Proof.
  intros A [(b' & H & L) | (b' & v & H & L)]; [left; exists b' | right; exists b', v];
    (split; [apply A; left; exact H | exact L]).
Qed.

Lemma safe_grows s s' new r c v :
  sends s s' new -> (forall a w, passed s a r c -> ~ new (Accepted a r c w)) ->
  (exists Q, quorum Q /\ forall a, Q a -> s (Accepted a r c v) \/ passed s a r c) ->
  exists Q, quorum Q /\ forall a, Q a -> s' (Accepted a r c v) \/ passed s' a r c.
Proof.
  intros A N (Q & HQ & H). exists Q; split; auto. intros a Ha.
  destruct (H a Ha) as [Hv | W]; [left; apply A; auto |].
  right; split; [| eapply promised_grows; [eauto | apply W]].
  intros w Hw. apply A in Hw. destruct Hw as [Hw | Hw].
  - exact (proj1 W w Hw).
  - exact (N a w W Hw).
Qed.

(** A step that sends neither a report, a write nor an acceptance keeps the invariant. *)
Lemma quiet_step s s' new :
  Inv s -> sends s s' new ->
  (forall a r b v, ~ new (Accepted a r b v)) -> (forall r b v, ~ new (Write r b v)) ->
  (forall a r b row, ~ new (Report a r b row)) -> Inv s'.
Proof.
  intros I A NA NW NR. split.
  - intros a r b v H. apply A in H as [H | H]; [apply A; left; eapply inv_accepted; eauto | destruct (NA _ _ _ _ H)].
  - intros r b v v' H H'. apply A in H as [H | H]; [| destruct (NW _ _ _ H)].
    apply A in H' as [H' | H']; [eapply inv_unique; eauto | destruct (NW _ _ _ H')].
  - intros a r b row H. apply A in H as [H | H]; [apply A; left; eapply inv_report; eauto | destruct (NR _ _ _ _ H)].
  - intros a r b m v H. apply A in H as [H | H]; [| destruct (NR _ _ _ _ H)].
    apply (inv_some s I) in H as [H1 H2]. split; [apply A; auto |].
    intros b' w L1 L2 X. apply A in X as [X | X]; [eapply H2; eauto | destruct (NA _ _ _ _ X)].
  - intros a r b H b' w L X. apply A in H as [H | H]; [| destruct (NR _ _ _ _ H)].
    apply A in X as [X | X]; [eapply (inv_none s I); eauto | destruct (NA _ _ _ _ X)].
  - intros r b v H c Hc. apply A in H as [H | H]; [| destruct (NW _ _ _ H)].
    eapply (safe_grows s s' new); [exact A | intros a w _; apply NA | eapply (inv_safe s I); eauto].
Qed.

Ltac old A H := apply A in H; destruct H as [H | H]; try discriminate H.

(** The heart: what a quorum's reports lead to is safe under every lower ballot. *)
Lemma reported_is_safe s r b v Q :
  Inv s -> quorum Q ->
  (forall a, Q a -> exists row, s (Report a r b row)) ->
  ((forall a row, Q a -> s (Report a r b row) -> row = None) \/
   (exists a m, s (Report a r b (Some (m, v))) /\
      forall a' m' v', Q a' -> s (Report a' r b (Some (m', v'))) -> m' <= m)) ->
  forall c, c < b ->
  exists Q', quorum Q' /\ forall a, Q' a -> s (Accepted a r c v) \/ passed s a r c.
Proof.
  intros I HQ HR HC c Hc.
  assert (P : forall a, Q a -> promised s a r (S c)).
  { intros a Ha. destruct (HR a Ha) as (row & H). left. exists b. split; [| lia].
    eapply (inv_report s I); eauto. }
  destruct HC as [HN | (a & m & HM & Hmax)].
  - exists Q; split; auto. intros a Ha. right; split; auto.
    destruct (HR a Ha) as (row & H). rewrite (HN _ _ Ha H) in H.
    intros w. eapply (inv_none s I); eauto.
  - pose proof (proj1 (inv_some s I _ _ _ _ _ HM)) as HV.
    destruct (lt_eq_lt_dec c m) as [[Lt | ->] | Gt].
    + eapply (inv_safe s I); eauto using (inv_accepted s I).
    + exists Q; split; auto. intros a2 Ha2. destruct (HR a2 Ha2) as ([[m2 v2] |] & H).
      * pose proof (Hmax _ _ _ Ha2 H). apply (inv_some s I) in H as [H1 H2].
        destruct (Nat.eq_dec m2 m) as [-> | NE].
        -- left. replace v with v2; auto.
           eapply (inv_unique s I); eapply (inv_accepted s I); eauto.
        -- right; split; auto. intros w; apply H2; lia.
      * right; split; auto. intros w. eapply (inv_none s I); eauto.
    + exists Q; split; auto. intros a2 Ha2. right; split; auto. intros w.
      destruct (HR a2 Ha2) as ([[m2 v2] |] & H).
      * pose proof (Hmax _ _ _ Ha2 H). apply (inv_some s I) in H as [_ H2]. apply H2; lia.
      * eapply (inv_none s I); eauto.
Qed.

(** A write that is safe, and the only one under its ballot, keeps the invariant. *)
Lemma write_step s s' r b v :
  Inv s -> sends s s' (eq (Write r b v)) -> (forall v', s (Write r b v') -> v' = v) ->
  (forall c, c < b -> exists Q, quorum Q /\ forall a, Q a -> s (Accepted a r c v) \/ passed s a r c) ->
  Inv s'.
Proof.
  intros I A U S. split.
  - intros ? ? ? ? H; old A H. apply A; left; eapply (inv_accepted s I); eauto.
  - intros r1 b1 v1 v2 H H'; old A H; old A H'.
    + eapply (inv_unique s I); eauto.
    + injection H' as -> -> ->. auto.
    + injection H as -> -> ->. symmetry; auto.
    + congruence.
  - intros ? ? ? ? H; old A H. apply A; left; eapply (inv_report s I); eauto.
  - intros ? ? ? ? ? H; old A H. apply (inv_some s I) in H as [H1 H2]. split; [apply A; auto |].
    intros ? ? ? ? X; old A X. eapply H2; eauto.
  - intros ? ? ? H ? ? ? X; old A H; old A X. eapply (inv_none s I); eauto.
  - intros r1 b1 v1 H c Hc. eapply safe_grows; eauto; [discriminate |].
    old A H; [eapply (inv_safe s I); eauto |]. injection H as -> -> ->. auto.
Qed.

Theorem inv_step s s' : Inv s -> step s s' -> Inv s'.
Proof.
  intros I [b range A | a b range HC HG NP A | a r b row HP HG HR A | r b v Q HQ U HR HC A
           | r v U A | a r b v HW HG NP A | r b v HC A | a v HC A];
    [| | | | | | eapply quiet_step; eauto; discriminate | eapply quiet_step; eauto; discriminate].
  - eapply quiet_step; eauto; discriminate.
  - eapply quiet_step; eauto; intros; intros (? & _ & X); discriminate.
  - (* DoReport *) split.
    + intros ? ? ? ? H; old A H. apply A; left; eapply (inv_accepted s I); eauto.
    + intros ? ? ? ? H H'; old A H; old A H'. eapply (inv_unique s I); eauto.
    + intros a1 r1 b1 row1 H; old A H; apply A; left; [eapply (inv_report s I); eauto |].
      injection H as -> -> -> _; auto.
    + intros a1 r1 b1 m v H; old A H.
      * apply (inv_some s I) in H as [H1 H2]. split; [apply A; auto |].
        intros ? ? ? ? X; old A X. eapply H2; eauto.
      * injection H as -> -> -> ->. destruct HR as [H1 H2]. split; [apply A; auto |].
        intros b' w L _ X; old A X. specialize (H2 _ _ X); lia.
    + intros a1 r1 b1 H b' w L X; old A X. old A H; [eapply (inv_none s I); eauto |].
      injection H as -> -> -> ->. exact (HR _ _ X).
    + intros ? ? ? H ? ?; old A H. eapply safe_grows; eauto; [discriminate | eapply (inv_safe s I); eauto].
  - eapply write_step; eauto.
    + intros v' H. destruct (U _ H).
    + eapply reported_is_safe; eauto.
  - eapply write_step; eauto. intros c H; lia.
  - (* DoAccept *) split.
    + intros a1 r1 b1 v1 H; old A H; apply A; left; [eapply (inv_accepted s I); eauto |].
      injection H as -> -> -> ->; auto.
    + intros ? ? ? ? H H'; old A H; old A H'. eapply (inv_unique s I); eauto.
    + intros ? ? ? ? H; old A H. apply A; left; eapply (inv_report s I); eauto.
    + intros a1 r1 b1 m v1 H; old A H. pose proof (inv_report s I _ _ _ _ H) as P.
      apply (inv_some s I) in H as [H1 H2]. split; [apply A; auto |].
      intros b' w L1 L2 X; old A X; [eapply H2; eauto |].
      injection X as -> -> -> ->. apply NP. left; eauto.
    + intros a1 r1 b1 H b' w L X; old A H. pose proof (inv_report s I _ _ _ _ H) as P.
      old A X; [eapply (inv_none s I); eauto |].
      injection X as -> -> -> ->. apply NP. left; eauto.
    + intros r1 b1 v1 H c Hc; old A H. eapply safe_grows; eauto; [| eapply (inv_safe s I); eauto].
      intros a1 w W X. injection X as -> -> -> ->. exact (NP (proj2 W)).
Qed.

Lemma inv_reachable s : reachable s -> Inv s.
Proof.
  induction 1 as [| s s' _ IH St]; [| eapply inv_step; eauto].
  split; unfold start; intros; contradiction.
Qed.

(** ** The theorems *)

Theorem agreement s r v v' : reachable s -> chosen s r v -> chosen s r v' -> v = v'.
Proof. intros H. apply inv_agreement, inv_reachable, H. Qed.

Theorem validity s r v : reachable s -> chosen s r v -> exists b, s (Write r b v).
Proof.
  intros R (b & Q & HQ & H). destruct (quorums_meet Q Q HQ HQ) as (a & Ha & _).
  exists b. eapply inv_accepted; eauto. apply inv_reachable, R.
Qed.

Inductive later : state -> state -> Prop :=
| Now s : later s s
| Then s s' s'' : later s s' -> step s' s'' -> later s s''.

Theorem immutability s s' r v v' :
  reachable s -> later s s' -> chosen s r v -> chosen s' r v /\ (chosen s' r v' -> v' = v).
Proof.
  intros R St C.
  assert (reachable s' /\ chosen s' r v) as [R' C'].
  { induction St as [| s s' s'' St IH Hs]; auto. destruct (IH R C) as [R' (b & Q & HQ & HV)].
    split; [econstructor; eauto |]. exists b, Q; split; auto. intros a Ha.
    destruct Hs; match goal with H : sends _ _ _ |- _ => apply H; left; auto end. }
  split; auto. intros C''. eapply agreement; eauto.
Qed.

(** A quorum whose rows are all empty: nothing was chosen before. *)
Theorem empty_read s r v Q :
  quorum Q -> (forall a, Q a -> is_row s a r None) -> ~ chosen s r v.
Proof.
  intros HQ HN (b & Q' & HQ' & H). destruct (quorums_meet Q Q' HQ HQ') as (a & Ha & Ha').
  exact (HN a Ha b v (H a Ha')).
Qed.

(** A mark is true, and a tombstone is preceded by the decision to trim. *)
Lemma told_truly s : reachable s ->
  (forall r b, s (Mark r b) -> exists v, chosen_at s r b v) /\
  (forall a, s (Gone a) -> exists v, chosen s trim v).
Proof.
  induction 1 as [| s s' R [IM IG] St]; [split; unfold start; intros; contradiction |].
  assert (G : forall m, s m -> s' m).
  { destruct St; match goal with H : sends _ _ _ |- _ => intros; apply H; left; auto end. }
  assert (C : forall r b v, chosen_at s r b v -> chosen_at s' r b v).
  { intros r b v (Q & HQ & HV). exists Q; split; auto. }
  assert (N : forall m, s' m -> s m \/ (forall r b, m <> Mark r b) /\ (forall a, m <> Gone a)
     \/ (exists r b v, m = Mark r b /\ chosen_at s r b v)
     \/ (exists a v, m = Gone a /\ chosen s trim v)).
  { intros m Hm. destruct St; match goal with H : sends _ _ _ |- _ => apply H in Hm end;
      destruct Hm as [Hm | Hm]; auto;
      try (right; left; split; intros; subst; (congruence || (destruct Hm as (? & _ & ->); congruence))).
    - right; right; left; exists r, b, v; subst; auto.
    - right; right; right; exists a, v; subst; auto. }
  split.
  - intros r b Hm. destruct (N _ Hm) as [Ho | [[Hx _] | [(r' & b' & v & E & Hc) | (a & v & E & _)]]].
    + destruct (IM _ _ Ho) as (v & Hv). exists v; auto.
    + destruct (Hx r b eq_refl).
    + injection E as -> ->. exists v; auto.
    + discriminate E.
  - intros a Hm. destruct (N _ Hm) as [Ho | [[_ Hx] | [(r' & b' & v & E & _) | (a' & v & E & b & Hc)]]].
    + destruct (IG _ Ho) as (v & b & Hv). exists v, b; auto.
    + destruct (Hx a eq_refl).
    + discriminate E.
    + exists v, b; auto.
Qed.

(** What one acceptor holds at the ballot of a mark, or above, is the chosen value. *)
Theorem marked_read s r b b' a v :
  reachable s -> s (Mark r b) -> s (Accepted a r b' v) -> b <= b' -> chosen s r v.
Proof.
  intros R HM HA Hle. pose proof (inv_reachable s R) as I.
  destruct (proj1 (told_truly s R) _ _ HM) as (w & Q & HQ & HW).
  assert (w = v) as ->; [| exists b, Q; auto].
  destruct (quorums_meet Q Q HQ HQ) as (a1 & Ha1 & _).
  destruct (Nat.eq_dec b b') as [<- | NE].
  - eapply (inv_unique s I); eapply (inv_accepted s I); eauto.
  - assert (Lt : b < b') by lia.
    destruct (inv_safe s I r b' v (inv_accepted s I _ _ _ _ HA) b Lt) as (Q2 & HQ2 & H2).
    destruct (quorums_meet Q Q2 HQ HQ2) as (a2 & Ha & Ha2).
    destruct (H2 a2 Ha2) as [Hv | [Hn _]].
    + eapply (inv_unique s I); eapply (inv_accepted s I); eauto.
    + destruct (Hn w (HW a2 Ha)).
Qed.

(** A trim has returned when a quorum says [Gone]; what read needs a quorum then meets one of them. *)
Definition trimmed (s : state) := exists Q, quorum Q /\ forall a, Q a -> s (Gone a).

Theorem trimmed_read s Q : trimmed s -> quorum Q -> ~ (forall a, Q a -> ~ s (Gone a)).
Proof.
  intros (Q' & HQ' & HG) HQ HN. destruct (quorums_meet Q Q' HQ HQ') as (a & Ha & Ha').
  exact (HN a Ha (HG a Ha')).
Qed.

Theorem trimmed_by_decision s : reachable s -> trimmed s -> exists v, chosen s trim v.
Proof.
  intros R (Q & HQ & HG). destruct (quorums_meet Q Q HQ HQ) as (a & Ha & _).
  exact (proj2 (told_truly s R) a (HG a Ha)).
Qed.

End Register.

Print Assumptions agreement.
Print Assumptions validity.
Print Assumptions immutability.
Print Assumptions empty_read.
Print Assumptions marked_read.
Print Assumptions trimmed_read.
Print Assumptions trimmed_by_decision.
